"""Whether real image networks train the same under all-reduce and under a parameter server."""
