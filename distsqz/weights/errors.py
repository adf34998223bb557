"""The error of an invalid archive."""

from __future__ import annotations


class ArchiveError(Exception):
    """The bytes are not a complete and valid archive; the message says why."""
