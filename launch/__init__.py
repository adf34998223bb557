"""One thin script a command: parse, call, print."""
