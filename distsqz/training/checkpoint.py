"""A checkpoint: everything that training needs to continue as if it had never stopped."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distsqz.errors import InvalidValue
from distsqz.runs.checkpoint_names import checkpoint_pattern


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
    """TCP payload that all ranks had sent in training steps, in bytes; None if it is unknown."""
    model: dict[str, Any]
    optimizer: dict[str, Any]
    rank_states: list[dict[str, Any] | None] | None = None
    """What each rank alone keeps from one step to the next, by rank; None if no rank keeps anything."""
    preprocessing: dict[str, Any] | None = None
    """Fields of the `Preprocessing` of image folders, if the initial weights specify one."""
    options: dict[str, Any] | None = None
    """`CellSpec.resume_key` of the cell; None in a checkpoint of an older distsqz."""

    @property
    def resume_key(self) -> dict[str, Any]:
        """The resume key of the saved cell; the resuming cell must match it."""
        return {
            "model": self.model_name,
            "num_classes": self.num_classes,
            "world_size": self.world_size,
            "batch_size": self.batch_size,
            "seed": self.seed,
            **(self.options or {}),
        }

    def differences(self, key: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """The saved value and that of `key`, by the name of each key that differs; keys that were not saved
        are left out.
        """
        return {
            name: (saved, key[name])
            for name, saved in self.resume_key.items()
            if name in key and key[name] != saved
        }

    def to_bytes(self) -> bytes:
        """The file's content: torch's own format, tensors and plain values only."""
        buffer = io.BytesIO()
        torch.save(vars(self), buffer)
        return buffer.getvalue()


def load_checkpoint(path: Path, cell: str, key: Mapping[str, Any]) -> Checkpoint:
    """Reads a checkpoint file, or the newest one in a run directory that a cell can be resumed from.

    Args:
        path: a file, or a run directory: those of the same cell go before those of others that match, such
            as the same cell with fewer steps.
        cell: the id of the cell.
        key: its `CellSpec.resume_key`.

    Raises:
        RequestError: there is none, or it is not one of ours.
    """
    if path.is_dir():
        path = _newest(path, cell, key)
    if not path.exists():
        raise InvalidValue("resume", path, "no such file or run directory")
    return _read(path)


def _newest(run: Path, cell: str, key: Mapping[str, Any]) -> Path:
    """The newest checkpoint of the cell, else the newest that matches, else the newest of all."""
    own = _by_age(run, checkpoint_pattern(cell))
    every = _by_age(run, "*.pt")
    if not every:
        raise InvalidValue("resume", run, "no checkpoint there; runs keep them with `checkpoint_every`")
    # Files are only mapped: what is compared takes up a few bytes of them.
    matching = (file for file in every if not _read(file, mapped=True).differences(key))
    return own[0] if own else next(matching, every[0])


def _by_age(run: Path, pattern: str) -> list[Path]:
    """Checkpoint files of a run directory, the newest first."""
    return sorted((run / "checkpoints").glob(pattern), key=lambda file: -file.stat().st_mtime_ns)


def _read(path: Path, *, mapped: bool = False) -> Checkpoint:
    try:
        return Checkpoint(**torch.load(path, map_location="cpu", weights_only=True, mmap=mapped))
    except Exception as error:  # torch.load lets any parsing error through
        reason = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise InvalidValue("resume", path, f"not a checkpoint of this program ({reason})") from error
