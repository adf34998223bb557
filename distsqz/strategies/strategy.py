"""What a strategy declares about itself, apart from torch: what it sends, to whom, and what follows from it.

A strategy is a subclass of `Strategy` in a folder of its own, with a line in `registry.py`, or anyone's own
as `package.module:name`. The part that runs on a worker is named by `worker` and imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, ClassVar, Self

from distsqz.theory.exchange import Exchange, load_by_host, of_collective
from distsqz.theory.placement import LinkLoad, Placement, rank_index

GLOO_FRAMING_BYTES = 1200
"""What Gloo sends besides the payload of one all-reduce, for each rank but one (twice what was seen)."""


SEND, RECV = "send", "recv"
POINT_TO_POINT = (SEND, RECV)
"""Operations between two ranks."""


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """The options of a strategy that has none."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A transfer as a rank handed it to the communication layer."""

    op: str
    payload_bytes: int
    peer: str | None = None
    """Name of the shard or rank at its other end, or of the root of a collective that has one."""


@dataclass(frozen=True, slots=True)
class TensorKind:
    """Shape and size of an element of one parameter."""

    shape: tuple[int, ...]
    element_bytes: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What one training step of a model found, before anything starts. Parameters are listed by name, only
    those that are trained.
    """

    model: str
    """The model's name in messages."""
    unused: tuple[str, ...]
    """Parameters that got no gradient."""
    repeated: tuple[str, ...]
    """Parameters that got several gradients in one backward pass, as reentrant checkpointing makes them."""
    moved: tuple[str, ...]
    """Parameters that the forward pass gave new memory (a new `.data`)."""
    written: tuple[str, ...]
    """Parameters whose values the forward or backward pass changed in place."""


@dataclass(frozen=True)
class Strategy:
    """How replicas agree, with the options chosen for it.

    By default: by collectives, with all ranks making each step together. A subclass overrides what differs.
    """

    options: Any = field(default=None)
    """An instance of `Options`; by default one with all defaults."""

    name: ClassVar[str]
    """Its name in commands, ids and run.json."""
    title: ClassVar[str]
    """Its name in prose, such as "all-reduce"."""
    abbreviation: ClassVar[str]
    """Its name in narrow tables."""
    Options: ClassVar[type[Any]] = NoOptions
    """A frozen dataclass, each field with a default."""
    worker: ClassVar[str]
    """The worker's part as `package.module:name`, called with a model and a `WorkerContext`."""
    is_baseline: ClassVar[bool] = False
    """Whether rank 0 trains by itself, as what others are compared with."""
    has_servers: ClassVar[bool] = False
    """Whether shards on servers own the parameters."""
    is_full_duplex: ClassVar[bool] = True
    """Whether the algorithm keeps both directions of the links busy at once."""
    settles_late: ClassVar[bool] = False
    """Whether transfers of a step may end in the next one."""

    def __post_init__(self) -> None:
        """Gives all options their defaults if none are given."""
        if self.options is None:
            object.__setattr__(self, "options", self.Options())

    @property
    def makes_steps_together(self) -> bool:
        """Whether all ranks make each step together."""
        return True

    def settled(self, world_size: int) -> Self:  # noqa: ARG002
        """The strategy with the values of options that follow from the number of workers.

        Raises:
            InvalidValue: the options do not suit this number of workers.
        """
        return self

    def refuse(self, tried: Tried) -> None:
        """Refuses a model that it would train wrongly, or that would fail only after the start.

        Raises:
            InvalidValue: with the reason.
        """

    def refuse_training(self, options: Any) -> None:
        """Refuses options of training that it does not support.

        Args:
            options: the options, with `optimizer`, `clip_norm` and `micro_batches` among them.

        Raises:
            InvalidValue: with the reason.
        """

    def effective(self) -> Self:
        """The strategy with defaults for options that have no effect beside the others."""
        return self

    def payload_bytes(self, kinds: Sequence[TensorKind]) -> int | None:
        """Payload that a rank hands over in each step for trained parameters of these kinds; None if it
        varies.
        """
        return sum(kind.elements * kind.element_bytes for kind in kinds)

    def planned(self, payload_bytes: int, rank: int, placement: Placement) -> Sequence[Sent]:
        """What a rank hands over in a step, before anything was sent.

        Args:
            payload_bytes: size of a worker's gradients.
            rank: the rank.
            placement: the hosts of workers and servers.
        """
        raise NotImplementedError

    def exchanges(self, sent: Sent, rank: int, placement: Placement) -> Sequence[Exchange]:
        """What a rank exchanges with its peers in a transfer, by the formula of the algorithm."""
        world_size, payload_bytes = len(placement.workers), sent.payload_bytes
        peer = 0 if sent.peer is None else rank_index(sent.peer)
        if sent.op in POINT_TO_POINT:
            return [Exchange(peer, *self.logical_bytes(sent))]
        return of_collective(sent.op, payload_bytes, rank, world_size, root=peer)

    def logical_bytes(self, sent: Sent) -> tuple[int, int]:
        """Payload that a transfer hands to the communication layer, and that it hands back."""
        return sent.payload_bytes * (sent.op != RECV), sent.payload_bytes * (sent.op != SEND)

    def handed_over_bytes(self, entry: Mapping[str, Any]) -> int | None:
        """Payload that a rank hands over in each step, if that follows from a cell's entry in run.json.

        An older distsqz did not record it; what it trained sent whole gradients.
        """
        recorded: int | None = entry.get("sent_payload_bytes", entry.get("payload_bytes"))
        return recorded if entry["world_size"] > 1 else None

    def framing_bytes(self, world_size: int) -> int:
        """The most that the communication layer sends besides the payload of a transfer, for a rank and a
        direction.
        """
        return GLOO_FRAMING_BYTES * (world_size - 1)

    def load_by_host(
        self, sent_by_rank: Mapping[int, Iterable[tuple[Sent, float]]], placement: Placement
    ) -> dict[str, LinkLoad]:
        """Payload that each host's link must carry in a step.

        Args:
            sent_by_rank: transfers of each rank, each with how often it occurs in a step.
            placement: the hosts of workers and servers.
        """
        exchanges = {
            rank: [
                Exchange(each.peer, each.tx_bytes * times, each.rx_bytes * times)
                for one, times in sent
                for each in self.exchanges(one, rank, placement)
            ]
            for rank, sent in sent_by_rank.items()
        }
        return load_by_host(exchanges, placement)

    def planned_load_by_host(self, payload_bytes: int, placement: Placement) -> dict[str, LinkLoad]:
        """The same for what is handed over by plan; see `planned` for the arguments."""
        planned = {
            rank: [(sent, 1.0) for sent in self.planned(payload_bytes, rank, placement)]
            for rank in range(len(placement.workers))
        }
        return self.load_by_host(planned, placement)

    def arrangements(self) -> Sequence[str]:
        """Names of the arrangements of its processes whose step times can be predicted."""
        return [self.name]

    def arranged(self, arrangement: str, hosts: int, servers: int) -> Placement:  # noqa: ARG002
        """The hosts of the processes in an arrangement, with a worker on each of `hosts` hosts.

        Args:
            arrangement: one of `arrangements`.
            hosts: number of hosts with a worker.
            servers: number of servers on hosts of their own, in arrangements that have them.
        """
        return Placement(workers=[f"host {index}" for index in range(hosts)])

    def is_arranged(self, arrangement: str, row: Mapping[str, Any], hosts: int, servers: int) -> bool:  # noqa: ARG002
        """Whether a measured cell has an arrangement; see `arranged` for the arguments."""
        return bool(row["strategy"] == self.name)
