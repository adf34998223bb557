"""Questions about speed, each with its script and its answer."""
