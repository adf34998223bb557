"""A reduction tree: gradients are summed up a binomial tree of workers, and the sums are sent down it."""
