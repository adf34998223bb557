"""Parameter servers against each other, against their bounds, and with a slow worker."""
