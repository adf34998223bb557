"""Deep Compression: prune, share, quantise and encode a model's weights into a small archive."""
