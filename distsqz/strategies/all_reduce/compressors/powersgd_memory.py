"""Torch's PowerSGD hook with its memory kept by parameter.

Torch keeps the error of the last step and its matrices by the index of a bucket. DDP arranges its buckets
anew after the first step that it makes, also of a training that goes on from a checkpoint: what was kept for
one bucket would then be added to another. Here memory is moved to the buckets of the new arrangement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook

from distsqz.strategies.all_reduce.compressors.in_turn import InTurn

if TYPE_CHECKING:
    from distsqz.strategies.all_reduce.compressors.powersgd import PowerSGD

Memory = dict[str, dict[str, torch.Tensor]]
"""By the name of a parameter: its `error`, and where it is compressed its matrix `q`, both flat."""


class PowerSGDHook:
    """PowerSGD at work on one rank."""

    def __init__(self, options: PowerSGD, names: Mapping[torch.Tensor, str]) -> None:
        """Begins without memory.

        Args:
            options: rank and first step.
            names: names of the parameters.
        """
        self._options = options
        self._names = names
        self._torch = PowerSGDState(
            process_group=None,
            matrix_approximation_rank=options.rank,
            start_powerSGD_iter=options.start_step,
        )
        self._arranged: dict[int, list[torch.Tensor]] = {}
        """The parameters of each bucket for which torch has memory."""
        self._loose: Memory = {}
        """Memory that belongs to no bucket now."""
        self._in_turn = InTurn(self._synchronise)

    def __call__(self, bucket: Any) -> Any:
        """Starts to synchronise a bucket; a future of its average over the ranks."""
        return self._in_turn(bucket)

    def _synchronise(self, bucket: Any) -> torch.futures.Future[torch.Tensor]:
        if self._torch.iter >= self._options.start_step:
            self._arrange(bucket.index(), bucket.parameters())
        return powerSGD_hook(self._torch, bucket)

    def state(self) -> dict[str, Any]:
        """The memory by the name of its parameter, the number of steps, and the state of the generator."""
        generator = self._torch.rng.get_state(legacy=False)
        memory = dict(self._loose)
        for index in self._arranged:
            memory |= self._memory_of(index)
        return {
            "step": self._torch.iter,
            "memory": memory,
            "generator": generator["state"]["key"].tolist(),
            "position": int(generator["state"]["pos"]),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from a state; its memory is moved to the buckets as they come."""
        self._torch.iter = state["step"]
        key = np.array(state["generator"], dtype=np.uint32)
        self._torch.rng.set_state(("MT19937", key, state["position"], 0, 0.0))
        self._arranged.clear()
        self._loose = state["memory"]

    def _arrange(self, index: int, parameters: Sequence[torch.Tensor]) -> None:
        """Gives a bucket the memory of its parameters, unless it had the same ones in the step before."""
        if list(map(id, self._arranged.get(index, ()))) == list(map(id, parameters)):
            return
        # Buckets come one after the other: nothing is under way, and those before have their new memory.
        for later in [each for each in self._arranged if each >= index]:
            self._loose |= self._memory_of(later)
            for memory in (self._torch.error_dict, self._torch.p_memory_dict, self._torch.q_memory_dict):
                memory.pop(later, None)
            del self._arranged[later]
        self._arranged[index] = list(parameters)
        names = [self._names[parameter] for parameter in parameters]
        if not all(name in self._loose for name in names):
            return  # the first step that is compressed
        own = {name: self._loose.pop(name) for name in names}
        compressed, like = self._compressed(parameters), parameters[0]
        nothing = [like.new_empty(0)]
        qs = [own[self._names[parameter]]["q"].to(like.device) for parameter in compressed]
        rows = [parameter.shape[0] * self._rank(parameter) for parameter in compressed]
        self._torch.error_dict[index] = torch.cat([own[name]["error"] for name in names]).to(like.device)
        self._torch.q_memory_dict[index] = torch.cat(nothing + qs).detach()
        self._torch.p_memory_dict[index] = like.new_empty(sum(rows)).detach()

    def _memory_of(self, index: int) -> Memory:
        """The memory of a bucket's parameters, which shares torch's."""
        parameters = self._arranged[index]
        if index not in self._torch.error_dict:
            return {}
        sizes = [parameter.numel() for parameter in parameters]
        errors = torch.split(self._torch.error_dict[index], sizes)
        memory = {
            self._names[parameter]: {"error": error}
            for parameter, error in zip(parameters, errors, strict=True)
        }
        compressed = self._compressed(parameters)
        columns = [each.numel() // each.shape[0] * self._rank(each) for each in compressed]
        for parameter, q in zip(
            compressed, torch.split(self._torch.q_memory_dict[index], columns), strict=True
        ):
            memory[self._names[parameter]]["q"] = q
        return memory

    def _compressed(self, parameters: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The parameters whose gradients are compressed, in torch's order: alike ones together."""
        by_shape: dict[tuple[int, int], list[torch.Tensor]] = {}
        for each in parameters:
            if self._options.is_compressed(each.shape):
                by_shape.setdefault((each.shape[0], each.numel() // each.shape[0]), []).append(each)
        return [each for alike in by_shape.values() for each in alike]

    def _rank(self, parameter: torch.Tensor) -> int:
        return min(parameter.shape[0], parameter.numel() // parameter.shape[0], self._options.rank)
