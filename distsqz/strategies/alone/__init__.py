"""The baseline: one worker trains by itself."""
