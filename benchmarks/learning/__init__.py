"""Whether the models learn."""
