"""A parameter server: shards own the parameters, workers push gradients to them and pull parameters.

Source: Li et al., "Scaling Distributed Machine Learning with the Parameter Server" (OSDI 2014), section 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from distsqz.errors import InvalidValue, name_some
from distsqz.strategies.parameter_server.options import ServerOptions
from distsqz.strategies.strategy import Sent, Strategy, Tried
from distsqz.theory.exchange import Exchange
from distsqz.theory.placement import Placement, shard_name

PUSH, PULL = "push", "pull"
"""Operations of transfers: gradients to a shard, and parameters from it."""

FRAMING_BYTES = 256
"""What Gloo and the protocol send besides the payload of one push or pull (twice what was seen)."""

BESIDE_WORKERS, DEDICATED = "ps", "ps-dedicated"
"""Arrangements: a server beside each worker, and servers on hosts of their own."""


class ParameterServer(Strategy):
    """Shards on servers, with a choice of consistency."""

    name = "ps"
    title = "parameter server"
    abbreviation = "PS"
    Options = ServerOptions
    worker = "distsqz.strategies.parameter_server.worker:ServedReplica"
    has_servers = True
    is_full_duplex = False  # nothing makes a host send while it receives
    settles_late = True

    @property
    def makes_steps_together(self) -> bool:
        """Whether every update takes the gradients of all workers."""
        together: bool = self.options.agreement.together
        return together

    def settled(self, world_size: int) -> Self:
        """By default a server for each worker, or one if it has a host of its own."""
        self.options.check(world_size)
        by_default = world_size if self.options.placement == "colocated" else 1
        return replace(self, options=replace(self.options, servers=self.options.servers or by_default))

    def refuse_training(self, options: Any) -> None:
        """Refuses what shards cannot do, which see one gradient of each worker at a time."""
        by_default = {"optimizer": "sgd", "clip_norm": None, "micro_batches": 1}
        for name, default in by_default.items():
            if (value := getattr(options, name)) != default:
                raise InvalidValue(
                    name, value, "not with a parameter server, whose shards update by SGD; train with ddp"
                )

    def refuse(self, tried: Tried) -> None:
        """Refuses models that change their parameters themselves, of which shards do not know."""
        if tried.moved:
            raise InvalidValue(
                "model",
                tried.model,
                f"its forward pass gives {name_some(tried.moved)} a new .data, which a parameter "
                "server does not reach; train it with ddp",
            )
        if tried.written:
            raise InvalidValue(
                "model",
                tried.model,
                f"its training step changes {name_some(tried.written)} in place, which the shards of "
                "a parameter server would undo; train it with ddp",
            )

    def planned(self, payload_bytes: int, rank: int, placement: Placement) -> Sequence[Sent]:  # noqa: ARG002
        """A push to each shard and a pull from it, of equal shares."""
        shards = len(placement.shards)
        return [
            Sent(op, payload_bytes // shards, shard_name(index))
            for index in range(shards)
            for op in (PUSH, PULL)
        ]

    def exchanges(self, sent: Sent, rank: int, placement: Placement) -> Sequence[Exchange]:  # noqa: ARG002
        """A push sends its payload to its shard, a pull receives it."""
        assert sent.peer is not None
        pushed, pulled = self.logical_bytes(sent)
        return [Exchange(sent.peer, pushed, pulled)]

    def logical_bytes(self, sent: Sent) -> tuple[int, int]:
        """A push hands its payload over, a pull hands it back."""
        return (sent.payload_bytes, 0) if sent.op == PUSH else (0, sent.payload_bytes)

    def handed_over_bytes(self, entry: Mapping[str, Any]) -> int | None:
        """The gradients, unless a worker may be left behind and skip steps."""
        return (
            None
            if entry.get("backup_workers")
            else entry.get("sent_payload_bytes", entry.get("payload_bytes"))
        )

    def framing_bytes(self, world_size: int) -> int:  # noqa: ARG002
        """The most that is sent besides the payload of a push or a pull."""
        return FRAMING_BYTES

    def arrangements(self) -> Sequence[str]:
        """A server beside each worker, and servers on hosts of their own."""
        return [BESIDE_WORKERS, DEDICATED]

    def arranged(self, arrangement: str, hosts: int, servers: int) -> Placement:
        """The hosts of workers and shards; see `Strategy.arranged`."""
        workers = super().arranged(arrangement, hosts, servers).workers
        own_hosts = [f"server {index}" for index in range(servers)]
        return Placement(workers=workers, shards=own_hosts if arrangement == DEDICATED else workers)

    def is_arranged(self, arrangement: str, row: Mapping[str, Any], hosts: int, servers: int) -> bool:
        """Whether a measured cell has an arrangement; see `Strategy.is_arranged`."""
        dedicated = arrangement == DEDICATED
        return (
            row["strategy"] == self.name
            and row.get("placement") == ("dedicated" if dedicated else "colocated")
            and row.get("servers") == (servers if dedicated else hosts)
            and row.get("consistency") in (None, "sync")
            and not row.get("backup_workers")
        )
