"""The metered training loop that every strategy shares: data, forward, backward, synchronisation, update."""
