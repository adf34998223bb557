"""The step meter: cuts each step into phases and reads every instrument just before and just after it.

Within the timed step it takes clock marks and nothing else; counters are read, and records made, between
steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distsqz.metering.clock import NS_PER_S, Clock
from distsqz.metering.host import InterfaceMeter, SchedulerMeter
from distsqz.metering.schema import PeerRecord, Record, StepRecord, TransferRecord
from distsqz.metering.tcp import PeerMeter, TcpCounters, total
from distsqz.metering.transfers import EPOCH_OFFSET_NS, Transfer, TransferLog
from distsqz.metering.wire import WireCounters, WireMeter

PredictBytes = Callable[[int], tuple[int, int]]
"""Payload bytes of a transfer -> (bytes that a rank must send, bytes that it must receive) for it."""


@dataclass(frozen=True, kw_only=True)
class Instruments:
    """What a worker is measured with; an instrument that is None leaves its columns null."""

    clock: Clock[Any]
    transfers: TransferLog | None = None
    peers: PeerMeter | None = None
    interface: InterfaceMeter | None = None
    wire: WireMeter | None = None
    scheduler: SchedulerMeter | None = None


@dataclass(frozen=True, kw_only=True)
class StepSource:
    """Who makes the records: the columns that all steps of a cell on a rank have in common."""

    cell: str
    model: str
    strategy: str
    world_size: int
    rank: int
    host: str
    attempt: int


@dataclass(frozen=True, slots=True)
class _Counters:
    """One reading of every counter."""

    peers: dict[int, TcpCounters]
    interface: tuple[int, int] | None
    wire: WireCounters | None
    sched_wait_s: float | None


class StepMeter:
    """Measures the steps of one cell on one rank: `begin`, a `lap` after each phase, `end`, `record`."""

    def __init__(self, source: StepSource, instruments: Instruments, predict: PredictBytes) -> None:
        self._source = source
        self._instruments = instruments
        self._clock = instruments.clock
        self._predict = predict
        self._records: dict[str, list[Record]] = {"steps": [], "transfers": [], "peers": []}
        self._laps: list[tuple[str, Any]] = []

    def begin(self, step: int, warmup: bool) -> None:
        """Reads the counters, then starts the clock."""
        self._step, self._warmup = step, warmup
        self._laps.clear()
        self._before = self._read()
        self._start_ns = time.perf_counter_ns()
        self._start = self._clock.now()

    def lap(self, phase: str) -> None:
        """Ends a phase: `data`, `forward`, `backward` or `optimizer`."""
        self._laps.append((phase, self._clock.now()))

    def end(self) -> None:
        """Stops the clock, then reads the counters."""
        self._clock.settle()
        self._end_ns = time.perf_counter_ns()
        self._after = self._read()

    def record(self, samples: int, loss: float) -> None:
        """Makes the records of the step that ended."""
        log = self._instruments.transfers
        gradients_ready = log.last_launch if log else None
        transfers = log.take() if log else []
        wall_s = (self._end_ns - self._start_ns) / NS_PER_S
        phases, exposed_comm_s = self._phases(gradients_ready)
        peers = {rank: after.since(self._before.peers[rank]) for rank, after in self._after.peers.items()}
        tcp = total(peers.values()) if self._instruments.peers else None
        nic = _difference(self._before.interface, self._after.interface)
        wire = self._after.wire.since(self._before.wire) if self._after.wire and self._before.wire else None
        predicted = [self._predict(transfer.payload_bytes) for transfer in transfers]
        logical_bytes = sum(transfer.payload_bytes for transfer in transfers) if log else None
        self._records["steps"].append(
            StepRecord(
                cell=self._source.cell,
                model=self._source.model,
                strategy=self._source.strategy,
                world_size=self._source.world_size,
                rank=self._source.rank,
                host=self._source.host,
                attempt=self._source.attempt,
                step=self._step,
                warmup=self._warmup,
                t_start_ns=self._start_ns + EPOCH_OFFSET_NS,
                wall_s=wall_s,
                data_s=phases["data"],
                forward_s=phases["forward"],
                backward_s=phases["backward"],
                exposed_comm_s=exposed_comm_s,
                optimizer_s=phases["optimizer"],
                other_s=wall_s - sum(phases.values()) - (exposed_comm_s or 0.0),
                sched_wait_s=_elapsed(self._before.sched_wait_s, self._after.sched_wait_s),
                samples=samples,
                loss=loss,
                logical_tx_bytes=logical_bytes,
                logical_rx_bytes=logical_bytes,
                predicted_tx_bytes=sum(tx for tx, _ in predicted) if log else None,
                predicted_rx_bytes=sum(rx for _, rx in predicted) if log else None,
                tcp_tx_bytes=tcp.tx_bytes if tcp else None,
                tcp_rx_bytes=tcp.rx_bytes if tcp else None,
                tcp_retrans_bytes=tcp.retrans_bytes if tcp else None,
                nic_tx_bytes=nic[0] if nic else None,
                nic_rx_bytes=nic[1] if nic else None,
                wire_tx_bytes=wire.tx_bytes if wire else None,
                wire_rx_bytes=wire.rx_bytes if wire else None,
                wire_tx_packets=wire.tx_packets if wire else None,
                wire_rx_packets=wire.rx_packets if wire else None,
                staleness=0,
            )
        )
        self._records["transfers"].extend(self._transfer_record(transfer) for transfer in transfers)
        self._records["peers"].extend(self._peer_record(rank, passed) for rank, passed in peers.items())

    def take(self) -> dict[str, list[Record]]:
        """The records made since the last call, by table."""
        taken = self._records
        self._records = {table: [] for table in taken}
        return taken

    def _read(self) -> _Counters:
        instruments = self._instruments
        return _Counters(
            instruments.peers.read() if instruments.peers else {},
            instruments.interface.read() if instruments.interface else None,
            instruments.wire.read() if instruments.wire else None,
            instruments.scheduler.read() if instruments.scheduler else None,
        )

    def _phases(self, gradients_ready: Any) -> tuple[dict[str, float], float | None]:
        """Seconds of each phase; the backward pass ends, and exposed communication begins, when ready."""
        seconds: dict[str, float] = {}
        exposed_comm_s = None
        start = self._start
        for phase, mark in self._laps:
            end = mark
            if phase == "backward" and gradients_ready is not None:
                end = gradients_ready
                exposed_comm_s = self._clock.seconds(gradients_ready, mark)
            seconds[phase] = self._clock.seconds(start, end)
            start = mark
        return seconds, exposed_comm_s

    def _transfer_record(self, transfer: Transfer) -> TransferRecord:
        return TransferRecord(
            cell=self._source.cell,
            rank=self._source.rank,
            step=self._step,
            op=transfer.op,
            bucket=transfer.bucket,
            peer=transfer.peer,
            payload_bytes=transfer.payload_bytes,
            t_launch_ns=transfer.t_launch_ns,
            t_done_ns=transfer.t_done_ns,
        )

    def _peer_record(self, peer_rank: int, passed: TcpCounters) -> PeerRecord:
        assert self._instruments.peers is not None
        return PeerRecord(
            cell=self._source.cell,
            rank=self._source.rank,
            step=self._step,
            peer=self._instruments.peers.address(peer_rank),
            peer_rank=peer_rank,
            tx_bytes=passed.tx_bytes,
            rx_bytes=passed.rx_bytes,
            retrans_bytes=passed.retrans_bytes,
            rtt_us=passed.rtt_us,
        )


def _elapsed(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _difference(before: tuple[int, int] | None, after: tuple[int, int] | None) -> tuple[int, int] | None:
    return None if before is None or after is None else (after[0] - before[0], after[1] - before[1])
