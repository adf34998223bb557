"""The directory where the command runs, for workers that start elsewhere."""

from __future__ import annotations

import contextlib
import os


def working_directory() -> str | None:
    """This process's directory; None if it has been deleted."""
    try:
        return os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        return None


def enter_directory(directory: str | None) -> None:
    """Makes `directory` this process's own where this host has it; else it stays where it is."""
    if directory is not None:
        with contextlib.suppress(OSError):
            os.chdir(directory)
