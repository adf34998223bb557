"""What a compressor of gradients declares, and the part of it that runs on a worker.

A compressor is a frozen dataclass in a file of its own, with a line in `registry.py`, or anyone's own as
`package.module:name`. Its fields are its options. Only `hook` and what it makes may import torch: reports
read the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from distsqz.runs.cell_spec import rules
from distsqz.strategies.strategy import TensorKind


class GradientHook(Protocol):
    """A compressor at work on one rank: called with each of DDP's buckets."""

    def __call__(self, bucket: Any) -> Any:
        """Starts to synchronise a bucket; a future of its average over the ranks."""

    def state(self) -> dict[str, Any] | None:
        """What must be kept in a checkpoint, different on each rank; None where there is nothing."""

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from a state."""


@dataclass(frozen=True, kw_only=True)
class Compressor:
    """Replaces gradients by less before they are all-reduced."""

    description: ClassVar[str]
    """What it sends, in a few words for the help of commands."""

    one_bucket: ClassVar[bool] = False
    """Whether all gradients go into one bucket, unless the user asks for a size: for compressors that send so
    little that the round trips of several buckets cost more than overlap saves."""

    @property
    def first_step(self) -> int:
        """First step that hands over what `payload_bytes` says; steps before send whole gradients."""
        return 0

    def payload_bytes(self, kinds: Sequence[TensorKind]) -> int | None:
        """Bytes that a rank hands over in a step for gradients of these tensors; None if they vary."""
        raise NotImplementedError

    def hook(self, names: Sequence[str], parameters: Sequence[Any]) -> GradientHook:
        """The part that runs on a worker.

        Args:
            names: names of the trained parameters.
            parameters: the parameters, in the same order.
        """
        raise NotImplementedError


def option(default: Any, text: str, label: str | None = None, **more: Any) -> Any:
    """A field of a compressor: an option with its default and its help text."""
    return field(default=default, metadata={**rules(label=label, **more), "help": text})
