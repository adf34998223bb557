"""The console that progress is shown on: stderr, where lines are cut only at a terminal's edge."""

from __future__ import annotations

from rich.console import Console

WIDTH_OF_A_FILE = 1000
"""Columns of stderr where it is a file or a pipe: more than any line of progress has."""


def progress_console() -> Console:
    """A console on stderr, as wide as the terminal; if stderr is none, wide enough for every line."""
    console = Console(stderr=True)
    return console if console.is_terminal else Console(stderr=True, width=WIDTH_OF_A_FILE)
