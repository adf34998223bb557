"""A parameter server: workers push gradients to shards and pull parameters from them."""
