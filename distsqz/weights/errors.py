"""What is wrong with an archive."""

from __future__ import annotations


class ArchiveError(Exception):
    """The bytes are not a whole and valid archive; the text says what is wrong with them."""
