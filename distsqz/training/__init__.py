"""The step loop that every strategy shares: data, forward, backward, sync, update, metered."""
