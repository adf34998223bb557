"""Names of checkpoint files: `<cell>-step-<step>.pt`, shortened where a file system would refuse them."""

from __future__ import annotations

import glob
import hashlib

MOST_BYTES = 120
"""Most bytes of a cell's name in a file name; the whole file name stays below the limit of any file
system."""
HASH_DIGITS = 16


def checkpoint_name(cell: str, step: int) -> str:
    """Name of the file that holds a cell's checkpoint after `step` updates."""
    return f"{_stem(cell)}-step-{step:08d}.pt"


def checkpoint_pattern(cell: str) -> str:
    """Glob pattern of a cell's checkpoint files."""
    return f"{glob.escape(_stem(cell))}-step-*.pt"


def _stem(cell: str) -> str:
    """The cell's name; of a long one its beginning and a hash, so that no two cells share a file."""
    encoded = cell.encode()
    if len(encoded) <= MOST_BYTES:
        return cell
    beginning = encoded[: MOST_BYTES - 1 - HASH_DIGITS].decode(errors="ignore")
    return f"{beginning}-{hashlib.sha256(encoded).hexdigest()[:HASH_DIGITS]}"
