"""Data parallelism: gradients are summed over all workers by all-reduce."""
