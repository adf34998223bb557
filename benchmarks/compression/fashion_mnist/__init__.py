"""Prune, fine-tune and share, end to end."""
