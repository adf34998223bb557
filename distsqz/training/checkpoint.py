"""A checkpoint: all that training needs to go on as if it had never stopped."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distsqz.errors import RequestError
from distsqz.training.checkpoint_names import checkpoint_pattern


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state of a cell after `step` updates.

    There is no generator state in it: order, flips and dropout of a step follow from seed, rank and step.
    """

    model_name: str
    num_classes: int
    world_size: int
    batch_size: int
    seed: int
    step: int
    tx_bytes: int | None
    """TCP payload that all ranks had sent in training steps."""
    model: dict[str, Any]
    optimizer: dict[str, Any]
    preprocessing: dict[str, Any] | None = None
    """Fields of the `Preprocessing` of image folders, where the initial weights came with one."""

    def to_bytes(self) -> bytes:
        """The file's content: torch's own format, tensors and plain values only."""
        buffer = io.BytesIO()
        torch.save(vars(self), buffer)
        return buffer.getvalue()


def load_checkpoint(path: Path, cell: str) -> Checkpoint:
    """Reads a checkpoint file, or the newest one of a run directory; of the cell named so if it has any.

    Raises:
        RequestError: there is none, or it is not one of ours.
    """
    if path.is_dir():
        kept = path / "checkpoints"
        found = sorted(
            [*kept.glob(checkpoint_pattern(cell))] or kept.glob("*.pt"),
            key=lambda file: file.stat().st_mtime_ns,
        )
        if not found:
            raise RequestError(
                f"--resume {path}: no checkpoint there; runs keep them with --checkpoint-every"
            )
        path = found[-1]
    if not path.exists():
        raise RequestError(f"--resume {path}: no such file or run directory")
    try:
        return Checkpoint(**torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch.load lets any parsing error through
        reason = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise RequestError(f"--resume {path}: not a checkpoint of this program ({reason})") from error
