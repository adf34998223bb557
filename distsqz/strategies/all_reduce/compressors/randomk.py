"""Random-k: a share of each gradient's elements, drawn alike on every rank, with error memory.

As all ranks draw the same positions, values can be summed by all-reduce and positions need not be sent.
Source: Stich, Cordonnier and Jaggi, "Sparsified SGD with Memory" (2018), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distsqz.errors import InvalidValue
from distsqz.strategies.all_reduce.compressors.compressor import Compressor, GradientHook, option
from distsqz.strategies.strategy import TensorKind

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class RandomK(Compressor):
    """Sends some elements in each step; the others wait in a memory."""

    description = "a random share of the elements"

    share: float = option(0.01, "Share of each gradient's elements that is sent in a step.", label="share")

    def __post_init__(self) -> None:
        """Checks the value; raises InvalidValue for one out of range."""
        if not 0 < self.share <= 1:
            raise InvalidValue("share", self.share, "must be above 0 and at most 1")

    def elements_sent(self, elements: int) -> int:
        """Number of a gradient's elements that are sent: at least one."""
        return max(1, round(self.share * elements)) if elements else 0

    def payload_bytes(self, kinds: Sequence[TensorKind]) -> int:
        """The elements that are sent; positions follow from a seed."""
        return sum(self.elements_sent(kind.elements) * kind.element_bytes for kind in kinds)

    def hook(self, names: Sequence[str], parameters: Sequence[Any]) -> GradientHook:
        """A hook with a memory for each parameter."""
        return _Hook(self, dict(zip(parameters, names, strict=True)))


class _Hook:
    """Random-k at work on one rank."""

    def __init__(self, options: RandomK, names: dict[Any, str]) -> None:
        self._options = options
        self._names = names
        self._numbers = {parameter: number for number, parameter in enumerate(names)}
        self._step = 0
        self._errors: dict[str, torch.Tensor] = {}

    def __call__(self, bucket: Any) -> Any:
        """Starts to synchronise a bucket; a future of its average over the ranks."""
        import torch
        import torch.distributed as dist

        chosen = []
        for parameter, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True):
            name, flat = self._names[parameter], gradient.view(-1)
            if name in self._errors:
                flat += self._errors[name]
            positions = self._positions(self._numbers[parameter], flat.numel()).to(flat.device)
            sent = flat[positions]
            self._errors[name] = flat.clone().index_fill_(0, positions, 0.0)
            chosen.append((flat, positions, sent))
        if bucket.is_last():
            self._step += 1
        work = dist.all_reduce(torch.cat([sent for *_, sent in chosen]), async_op=True)
        assert work is not None

        def scatter(future: torch.futures.Future[list[torch.Tensor]]) -> torch.Tensor:
            (summed,) = future.value()
            average = summed / dist.get_world_size()
            parts = torch.split(average, [len(sent) for *_, sent in chosen])
            for (flat, positions, _), values in zip(chosen, parts, strict=True):
                flat.zero_().index_copy_(0, positions, values)
            buffer: torch.Tensor = bucket.buffer()
            return buffer

        return work.get_future().then(scatter)

    def _positions(self, number: int, elements: int) -> torch.Tensor:
        """Positions to send in this step, the same on every rank."""
        import torch

        generator = torch.Generator().manual_seed((self._step << 20) + number)
        return torch.randperm(elements, generator=generator)[: self._options.elements_sent(elements)]

    def state(self) -> dict[str, Any]:
        """The number of steps, and what has not been sent yet by the name of its parameter."""
        return {"step": self._step, "errors": self._errors}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from a state."""
        self._step = state["step"]
        self._errors = {name: error.clone() for name, error in state["errors"].items()}
