"""Deep Compression: prune, share, quantise and encode a model's weights into a small archive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from distsqz.weights.archive import read_archive

if TYPE_CHECKING:
    from torch import Tensor


def load(path: str | Path) -> dict[str, Tensor]:
    """The state dict of an archive.

    Raises:
        ArchiveError: the file is not a whole archive.
        OSError: it cannot be read.
    """
    import torch  # an archive is read on numpy alone; only who wants tensors needs torch

    return {name: torch.from_numpy(values) for name, values in read_archive(Path(path)).state().items()}
