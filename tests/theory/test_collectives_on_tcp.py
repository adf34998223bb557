"""The formulas of collectives against what the kernel counts between the ranks of real Gloo groups."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist

from benchmarks.agreement.group import join_group, leave_group
from benchmarks.agreement.local_servers import start_processes
from distsqz.metering.tcp import PeerMeter
from distsqz.theory.collectives import sends

ELEMENT_BYTES = 4
SIZES = (250_020, 1_600_020)
"""Elements, which divide by every number of ranks here: 1 MB, in which each part of a reduction has its two
segments, and 6.4 MB, in which the limit on a segment gives 2 and 3 ranks parts of more segments and unequal
sizes."""

OPERATIONS = [
    operation
    for operation in (
        "all_reduce",
        "reduce",
        "reduce_scatter",
        "reduce_scatter_tensor",
        "reduce_scatter_single",
        "broadcast",
        "all_gather",
        "all_gather_into_tensor",
        "all_gather_single",
        "gather",
        "scatter",
        "all_to_all",
        "all_to_all_single",
        "barrier",
    )
    if hasattr(dist, operation)  # `single` is in the names of torch 2.13 and later
]

HEADERS_BYTES = 4096
"""Most that Gloo's headers may add to a formula between two ranks, beyond a hundredth of the payload."""


class Call(NamedTuple):
    """One call of an operation."""

    operation: str
    elements: int
    root: int


Sent = Mapping[Call, list[dict[int, int]]]
"""Bytes written to the sockets shared with each other rank, by the rank that wrote them."""


class Buffers:
    """Memory of a rank's tensors, which all its calls share: new memory took half of the time."""

    def __init__(self, world_size: int) -> None:
        self.given, self.taken = torch.ones(max(SIZES)), torch.zeros(max(SIZES))
        self.gathered = torch.zeros(world_size * max(SIZES))


def _collective(call: Call, buffers: Buffers, rank: int, world_size: int) -> Callable[[], Any]:
    """The call with tensors to take and give; what a rank hands over has `call.elements` elements."""
    given, taken, root = buffers.given[: call.elements], buffers.taken[: call.elements], call.root
    gathered = buffers.gathered[: world_size * call.elements]
    parts, gathered_parts = list(given.chunk(world_size)), list(gathered.chunk(world_size))
    taken_parts, at_root = list(taken.chunk(world_size)), rank == root
    calls: Mapping[str, Callable[[], Any]] = {
        "all_reduce": lambda: dist.all_reduce(given),
        "reduce": lambda: dist.reduce(given, root),
        "reduce_scatter": lambda: dist.reduce_scatter(taken_parts[0], parts),
        "reduce_scatter_tensor": lambda: dist.reduce_scatter_tensor(taken_parts[0], given),
        "reduce_scatter_single": lambda: dist.reduce_scatter_single(taken_parts[0], given),
        "broadcast": lambda: dist.broadcast(given, root),
        "all_gather": lambda: dist.all_gather(gathered_parts, given),
        "all_gather_into_tensor": lambda: dist.all_gather_into_tensor(gathered, given),
        "all_gather_single": lambda: dist.all_gather_single(gathered, given),
        "gather": lambda: dist.gather(given, gathered_parts if at_root else None, root),
        "scatter": lambda: dist.scatter(taken_parts[0], parts if at_root else None, root),
        "all_to_all": lambda: dist.all_to_all(taken_parts, parts),
        "all_to_all_single": lambda: dist.all_to_all_single(taken, given),
        "barrier": dist.barrier,
    }
    return calls[call.operation]


def _measure(rank: int, world_size: int, folder: Path) -> None:
    """Makes every call as one rank of a new group, and saves what it sent to whom."""
    warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 renames operations and keeps the old names
    join_group(rank, world_size, folder)
    torch.set_num_threads(1)
    meter = PeerMeter.of_ranks(rank, _exchange)
    buffers, sent = Buffers(world_size), {}
    for call in _calls(world_size):
        collective = _collective(call, buffers, rank, world_size)
        before = meter.read()
        collective()
        sent[call] = {peer: after.since(before[peer]).tx_bytes for peer, after in meter.read().items()}
    torch.save(sent, folder / f"sent-{rank}.pt")
    dist.barrier()
    leave_group()


def _exchange(mine: Any) -> list[Any]:
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, mine)
    return gathered


def _calls(world_size: int) -> Iterator[Call]:
    """Every operation with a small payload at the first rank and a large one at the last."""
    for elements, root in zip(SIZES, (0, world_size - 1), strict=True):
        for operation in OPERATIONS:
            yield Call(operation, elements, root)


@pytest.fixture(scope="module", params=[2, 3, 4, 5])
def sent(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sent:
    """What every rank of a group sent in every call."""
    world_size, folder = request.param, tmp_path_factory.mktemp("group")
    start_processes(_measure, (world_size, folder), world_size)
    by_rank = [torch.load(folder / f"sent-{rank}.pt", weights_only=False) for rank in range(world_size)]
    return {call: [of_rank[call] for of_rank in by_rank] for call in _calls(world_size)}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_ranks_send_each_other_what_the_formula_says_and_headers(sent: Sent, operation: str) -> None:
    for call, by_rank in sent.items():
        if call.operation != operation:
            continue
        ranks = range(len(by_rank))
        formula: Counter[tuple[int, int]] = Counter()
        for origin, destination, payload_bytes in sends(
            operation, call.elements * ELEMENT_BYTES, len(ranks), call.root
        ):
            formula[origin, destination] += payload_bytes
        for rank in ranks:
            assert by_rank[rank].keys() == set(ranks) - {rank}
            for peer, counted in by_rank[rank].items():
                least = formula[rank, peer]
                assert least <= counted <= 1.01 * least + HEADERS_BYTES, (call, rank, peer)
