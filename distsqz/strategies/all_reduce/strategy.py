"""All-reduce: the gradients of all workers are summed by a collective while the backward pass goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from distsqz.errors import InvalidValue, name_some
from distsqz.strategies.all_reduce.compressors.registry import NONE
from distsqz.strategies.all_reduce.options import AllReduceOptions
from distsqz.strategies.strategy import Sent, Strategy, TensorKind, Tried
from distsqz.theory.collectives import UNUSED_FLAG_BYTES
from distsqz.theory.placement import Placement


class AllReduce(Strategy):
    """DistributedDataParallel: buckets of gradients are all-reduced."""

    name = "ddp"
    title = "all-reduce"
    abbreviation = "all-reduce"
    Options = AllReduceOptions
    worker = "distsqz.strategies.all_reduce.worker:DataParallel"

    def refuse(self, tried: Tried) -> None:
        """Refuses models of which DDP would wait for gradients, or get more than it takes."""
        if tried.repeated:
            raise InvalidValue(
                "model",
                tried.model,
                f"{name_some(tried.repeated)} got several gradients in one backward pass, which DDP "
                "does not take; give use_reentrant=False to torch.utils.checkpoint",
            )
        if tried.unused and not self.options.find_unused_parameters:
            raise InvalidValue(
                "model",
                tried.model,
                f"{name_some(tried.unused)} got no gradient, which DDP would wait for; give "
                "`find_unused_parameters`, or take them out of the model",
            )

    def effective(self) -> Self:
        """The strategy with defaults for options of compressors that are not chosen."""
        return replace(self, options=self.options.without_idle())

    def payload_bytes(self, kinds: Sequence[TensorKind]) -> int | None:
        """What a rank hands over in a step: gradients compressed, and flags if DDP looks for unused ones."""
        compressor = self.options.made_compressor()
        if compressor is None:
            payload_bytes: int | None = super().payload_bytes(kinds)
        else:
            payload_bytes = compressor.payload_bytes(kinds)
        if payload_bytes is not None and self.options.find_unused_parameters:
            payload_bytes += UNUSED_FLAG_BYTES * len(kinds)
        return payload_bytes

    def planned(self, payload_bytes: int, rank: int, placement: Placement) -> Sequence[Sent]:  # noqa: ARG002
        """The gradients once; how they are cut into buckets makes no difference to bytes."""
        return [Sent("all_reduce", payload_bytes)]

    def handed_over_bytes(self, entry: Mapping[str, Any]) -> int | None:
        """What was planned, unless steps that count came before the compressor began."""
        compressor = self.options.made_compressor()
        if compressor and entry.get("warmup_steps", 0) < compressor.first_step:
            return None
        return super().handed_over_bytes(entry)

    def is_arranged(self, arrangement: str, row: Mapping[str, Any], hosts: int, servers: int) -> bool:
        """Whether a measured cell sends whole gradients; see `Strategy.is_arranged`."""
        uncompressed = row.get("compressor") in (None, NONE)
        return uncompressed and super().is_arranged(arrangement, row, hosts, servers)
