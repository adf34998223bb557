"""Examples of distsqz in use; run by the tests, not installed."""
