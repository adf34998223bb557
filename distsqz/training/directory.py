"""The directory where the command runs, for workers that start elsewhere."""

from __future__ import annotations

import contextlib
import os


def working_directory() -> str | None:
    """The working directory of this process; None if it has been deleted."""
    try:
        return os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        return None


def enter_directory(directory: str | None) -> None:
    """Changes the working directory to `directory` if this host has it."""
    if directory is not None:
        with contextlib.suppress(OSError):
            os.chdir(directory)
