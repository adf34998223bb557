"""Deep Compression: prune, share, quantise and encode a model's weights into a small archive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from distsqz.weights.archive import read_archive

if TYPE_CHECKING:
    from torch import Tensor


def load(path: str | Path) -> dict[str, Tensor]:
    """Reads the state dict of an archive.

    Raises:
        ArchiveError: the file is not a complete archive.
        OSError: the file cannot be read.
    """
    import torch  # archives are read with numpy; only tensors need torch

    return {name: torch.from_numpy(values) for name, values in read_archive(Path(path)).state().items()}
