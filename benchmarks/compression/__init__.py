"""What compression costs and saves: one folder a question."""
