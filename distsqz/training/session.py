"""A session on one worker: several cells, in interleaved blocks, on the same processes and connections."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from distsqz.errors import InvalidValue
from distsqz.metering.clock import Clock, HostClock
from distsqz.metering.instrument import Place
from distsqz.metering.link import measure_ring
from distsqz.metering.meter import Instruments
from distsqz.metering.queue import QueueMeter
from distsqz.metering.registry import open_instruments
from distsqz.metering.tcp import PeerMeter
from distsqz.metering.transfers import TransferLog
from distsqz.runs.cell_facts import ServerPlaces, WorkerFacts
from distsqz.runs.cell_spec import rules_by_option
from distsqz.runs.cores import cores_of_this_machine
from distsqz.strategies.parameter_server.options import ServerOptions
from distsqz.strategies.parameter_server.worker import Servers
from distsqz.training.baseline import Baseline
from distsqz.training.cell import Cell
from distsqz.training.checkpoint import Checkpoint
from distsqz.training.directory import working_directory
from distsqz.training.memory_needs import MemoryNeeds
from distsqz.training.outbox import Outbox
from distsqz.training.replica import Replica
from distsqz.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class SessionPlan:
    """Plan of a session: what its workers train."""

    cells: Sequence[Cell]
    weights: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """Initial parameters by cell name, for cells whose parameters do not follow from the seed."""
    resume: Checkpoint | None = None
    """Checkpoint that the session's only cell is resumed from."""
    preflight_s: float = 1.0
    """Seconds for which each path between hosts is measured before training begins; 0: no measurement."""
    notices: Sequence[str] = ()
    """Lines for the user about what differs from the defaults."""
    directory: str | None = field(default_factory=working_directory)
    """Working directory of the command. Workers change to it, so that a model may read files by relative
    paths."""

    memory_needs: Sequence[MemoryNeeds] = ()
    """Memory needs of each cell, if they were estimated."""

    def __post_init__(self) -> None:
        """Raises InvalidValue if cells differ in what they must share, or if several resume a checkpoint."""
        if self.resume and len(self.cells) != 1:
            raise InvalidValue(
                "resume", None, f"a checkpoint is resumed by a single cell, not by {len(self.cells)}"
            )
        for kind in {type(cell.strategy) for cell in self.cells}:
            chosen = [cell.strategy.options for cell in self.cells if type(cell.strategy) is kind]
            for name, of in rules_by_option(kind.Options).items():
                values = list(dict.fromkeys(getattr(options, name) for options in chosen))
                if of.shared and len(values) > 1:
                    raise InvalidValue(name, " and ".join(map(str, values)), of.shared)

    @property
    def server(self) -> ServerOptions | None:
        """Options of the servers of cells that have one. Cells share server processes, but not their
        consistency.
        """
        return next((cell.server for cell in self.cells if cell.server), None)


def interleaved(cells: int, rounds: int) -> Iterator[int]:
    """The order in which cells take blocks: A B, B A, A B, ..., so that a machine's drift cancels out.

    Each round gives every cell one block; every second round runs backwards.
    """
    for index in range(rounds):
        yield from range(cells) if index % 2 == 0 else reversed(range(cells))


def train_session(
    plan: SessionPlan, replica: Replica, outbox: Outbox, servers: Servers | None = None
) -> None:
    """Trains every cell of the plan to its end, in torch's default process group unless it joins late.

    Args:
        plan: what to train.
        replica: this worker's place.
        outbox: where records go.
        servers: the parameter server of cells that train through one.
    """
    if not replica.joins:
        _describe(plan, replica, outbox)
        if plan.preflight_s:
            hosts = replica.placement.workers
            links = measure_ring(replica.rank, hosts, replica.address, plan.preflight_s, _all_gather)
            outbox.put({"links": links})
    with ExitStack() as stack:
        instruments = _instruments(replica, stack)
        trainers: list[Trainer | Baseline] = []
        for cell in plan.cells:
            torch.set_num_threads(_threads(cell, replica))
            metered = instruments if cell.options.metered else Instruments(clock=instruments.clock)
            weights = plan.weights.get(cell.name)
            trainers.append(
                Baseline(cell, replica, metered, outbox, weights)
                if cell.alone
                else Trainer(cell, replica, metered, outbox, weights, plan.resume, servers)
            )
            stack.callback(trainers[-1].close)
        if not replica.joins:
            dist.barrier()  # no server may think that who has yet to come has left
            for trainer in trainers:
                trainer.check()
        for trainer in trainers:
            torch.set_num_threads(_threads(trainer.cell, replica))
            trainer.run(min(trainer.cell.options.warmup_steps, trainer.remaining))
        rounds = max(-(-trainer.remaining // trainer.cell.options.block) for trainer in trainers)
        for index in interleaved(len(trainers), rounds):
            trainer = trainers[index]
            if len(trainers) > 1 and not trainer.cell.together:  # those that are meet at a block's start
                dist.barrier()  # no rank's lateness from elsewhere counts as this block's communication
            torch.set_num_threads(_threads(trainer.cell, replica))
            trainer.run(min(trainer.cell.options.block, trainer.remaining))
        if len(trainers) > 1 or plan.cells[0].together:
            dist.barrier()  # who leaves first would look like one that is lost, or take the servers along


def _instruments(replica: Replica, stack: ExitStack) -> Instruments:
    """Opens the instruments that this worker can be measured with; the stack closes them."""
    clock = _clock(replica.device)
    local = replica.placement.local_ranks(replica.rank)
    peers = PeerMeter.of_ranks(replica.rank, _all_gather, local) if not replica.joins else None
    queue = QueueMeter(replica.interface) if replica.interface else None
    others = open_instruments(Place(interface=replica.interface, native_thread_id=threading.get_native_id()))
    for instrument in (peers, queue, *others):
        if instrument:
            stack.callback(instrument.close)
    # NCCL may send through NVLink, shared memory or InfiniBand: its process's sockets do not tell its bytes.
    counted = replica.device == "cpu" and peers and (peers.available or replica.world_size == 1)
    return Instruments(
        clock=clock,
        transfers=TransferLog(clock),
        peers=peers if counted else None,
        queue=queue,
        others=others,
    )


def _clock(device: str) -> Clock[Any]:
    if device == "cpu":
        return HostClock()
    from distsqz.metering.cuda_clock import CudaClock

    return CudaClock()


def _threads(cell: Cell, replica: Replica) -> int:
    """Number of compute threads of a cell's worker on this host; a baseline has all of its cores."""
    if cell.alone:
        return replica.cores
    return cell.options.threads or max(1, replica.cores // replica.local_world_size)


def _describe(plan: SessionPlan, replica: Replica, outbox: Outbox) -> None:
    """Records what the workers run on; all ranks call this together."""
    threads = [_threads(cell, replica) for cell in plan.cells]
    replicas, threads_by_rank = zip(*_all_gather((replica, threads)), strict=True)
    if replica.rank != 0:
        return
    placement, rates = replica.placement, replica.emulated_rates_bits_per_s
    for cell, threads_of_cell in zip(plan.cells, zip(*threads_by_rank, strict=True), strict=True):
        hosts = placement.workers[:1] if cell.alone else placement.workers
        facts = WorkerFacts(
            hosts=list(hosts),
            spans_hosts=False if cell.alone else placement.spans_hosts,
            cores_by_host={each.host: each.cores for each in replicas if each.host in hosts},
            threads_per_worker=max(threads_of_cell[: len(hosts)]),
            interface=replica.interface,
            device=replica.device,
            emulated=rates is not None,
            machine_cores=cores_of_this_machine(),
            emulated_rate_bits_per_s=rates,
        )
        outbox.describe(cell.name, facts)
        if cell.server:
            outbox.describe(cell.name, ServerPlaces(server_hosts=list(placement.shards)))


def _all_gather(mine: Any) -> list[Any]:
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, mine)
    return gathered
