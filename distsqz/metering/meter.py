"""The step meter: divides each step into phases and reads every instrument just before and just after it.

Within the timed step it takes clock marks and nothing else; counters are read, and records made, between
steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from distsqz.metering.clock import NS_PER_S, Clock
from distsqz.metering.instrument import Instrument
from distsqz.metering.queue import QueueMeter, retransmitted_bytes
from distsqz.metering.schema import READINGS, PeerRecord, Record, StepRecord, TransferRecord
from distsqz.metering.tcp import Peer, PeerMeter, TcpColumns, TcpCounters, total
from distsqz.metering.transfers import EPOCH_OFFSET_NS, Account, Traffic, Transfer, TransferLog
from distsqz.runs.columns import Value, values_of


@dataclass(frozen=True, kw_only=True)
class Instruments:
    """Instruments of a worker; one that is None leaves its columns null."""

    clock: Clock[Any]
    transfers: TransferLog | None = None
    peers: PeerMeter | None = None
    queue: QueueMeter | None = None
    """Queue of the interface to `peers`."""
    others: tuple[Instrument, ...] = ()
    """Instruments of `distsqz.metering.registry`."""


@dataclass(frozen=True, kw_only=True)
class StepSource:
    """Columns that all steps of a cell on a rank have in common."""

    cell: str
    model: str
    strategy: str
    world_size: int
    rank: int
    host: str
    attempt: int


DRAIN_TIMEOUT_S = 10.0
"""Seconds within which a peer must acknowledge what is in flight at the end of a block."""

BETWEEN = "between"
"""Name of the phase between two steps of which the second continues the first."""


@dataclass(frozen=True, slots=True)
class _Counters:
    """A reading of every counter."""

    peers: dict[Peer, TcpCounters]
    others: tuple[Any, ...]
    """Readings of `Instruments.others`, in their order; None for one that cannot be read."""


class StepMeter:
    """Measures the steps of one cell on one rank: `begin`, a `lap` after each phase, `end`, `record`."""

    def __init__(self, source: StepSource, instruments: Instruments, account: Account) -> None:
        self._source = source
        self._instruments = instruments
        self._clock = instruments.clock
        self._account = account
        self._records: dict[str, list[Record]] = {"steps": [], "transfers": [], "peers": []}
        self._laps: list[tuple[str, Any, list[tuple[Any, Any]]]] = []
        self._dropped_packets: int | None = 0
        """Packets that the host's queue has dropped in the steps that follow one another; None if unknown.
        What it drops in one step TCP may send again in the next."""

    def begin(
        self,
        step: int,
        warmup: bool,
        *,
        follows: bool = False,
        continues: bool = False,
        meet: Callable[[], None] | None = None,
    ) -> None:
        """Reads the counters, then starts the clock.

        Args:
            step: which it is.
            warmup: whether it comes before measuring.
            follows: nothing was sent between the step before and this one, which therefore counts from that
                one's last reading: bytes that were still queued, or came early, belong to one of the two.
            continues: the step before left transfers under way: no time may fall between the two either, so
                this step begins where that one ended.
            meet: for the first of steps that follow one another: returns when every rank has come here. The
                counters of interface and wire are read before, as another rank may begin to send at once.
        """
        self._step, self._warmup = step, warmup
        self._laps.clear()
        if self._instruments.transfers:
            self._instruments.transfers.begin(step)
        if not follows:
            self._dropped_packets = 0
            if self._instruments.queue:
                self._instruments.queue.take_dropped_packets()  # before these steps
        if continues:
            self._before, self._start_ns, self._start = self._after, self._end_ns, self._laps_end
            self.lap(BETWEEN)
        else:
            self._before = self._after if follows else self._read_before(meet)
            self._start_ns = time.perf_counter_ns()
            self._start = self._clock.now()

    def lap(self, phase: str) -> None:
        """Ends a phase: `data`, `forward`, `backward` or `optimizer`."""
        log = self._instruments.transfers
        self._laps.append((phase, self._clock.now(), log.take_waits() if log else []))

    def end(self, meet: Callable[[], None] | None = None) -> None:
        """Stops the clock, then reads the counters.

        Args:
            meet: for the last of steps that follow one another: returns when every rank has come here. What
                was written has been acknowledged by then, and so has what servers on this host sent to other
                hosts: the counters of interface and wire have seen all that TCP's have.
        """
        self._laps_end = self._clock.now()
        self._clock.settle()
        self._end_ns = time.perf_counter_ns()
        if self._instruments.transfers:
            self._instruments.transfers.end()
        drained = True
        if meet and self._instruments.peers:
            drained = self._instruments.peers.drain(DRAIN_TIMEOUT_S)
        self._after = self._read(meet)
        if not drained:  # what counts frames has yet to see what TCP has counted
            self._after = replace(self._after, others=self._without_traffic(self._after.others))

    def record(self, samples: int, loss: float) -> None:
        """Makes the records of the step that ended."""
        log = self._instruments.transfers
        launched, ended = log.take_launched() if log else ([], [])
        wall_s = (self._end_ns - self._start_ns) / NS_PER_S
        phases, exposed_comm_s = self._phases(log)
        in_phases_s = sum(s for phase, s in phases.items() if phase != BETWEEN)
        peers = {peer: after.since(self._before.peers[peer]) for peer, after in self._after.peers.items()}
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
                other_s=wall_s - in_phases_s - (exposed_comm_s or 0.0),
                samples=samples,
                loss=loss,
                staleness=0,
                readings=self._readings(launched if log else None, peers),
            )
        )
        self._records["transfers"].extend(self._transfer_record(transfer) for transfer in ended)
        self._records["peers"].extend(self._peer_record(peer, passed) for peer, passed in peers.items())

    def take(self) -> dict[str, list[Record]]:
        """The records made since the last call, by table."""
        taken = self._records
        self._records = {table: [] for table in taken}
        return taken

    def _read_before(self, meet: Callable[[], None] | None) -> _Counters:
        counters = self._read()
        if not meet:
            return counters
        meet()  # may send something itself, which is not the step's
        return replace(counters, peers=self._read_peers())

    def _read_peers(self) -> dict[Peer, TcpCounters]:
        return self._instruments.peers.read() if self._instruments.peers else {}

    def _read(self, meet: Callable[[], None] | None = None) -> _Counters:
        peers = self._read_peers()
        if meet:
            meet()  # may send something itself, which is not the step's
        return _Counters(peers, tuple(each.read() for each in self._instruments.others))

    def _without_traffic(self, others: tuple[Any, ...]) -> tuple[Any, ...]:
        """Readings of the registered instruments, None for those of traffic."""
        return tuple(
            None if instrument.counts_traffic else reading
            for instrument, reading in zip(self._instruments.others, others, strict=True)
        )

    def _readings(self, launched: list[Transfer] | None, peers: dict[Peer, TcpCounters]) -> dict[str, Value]:
        """The instruments' columns of the step that ended; None for what was not or could not be read.

        Args:
            launched: the step's transfers; None where they are not recorded.
            peers: what passed between this process and each peer.
        """
        readings: dict[str, Value] = dict.fromkeys(READINGS)
        if launched is not None:
            readings |= values_of(Traffic.total(map(self._account, launched)))
        if self._instruments.peers:
            readings |= values_of(self._tcp(self._instruments.peers, peers))
        else:
            self._dropped_packets = None
        for instrument, before, after in zip(
            self._instruments.others, self._before.others, self._after.others, strict=True
        ):
            if before is not None and after is not None:
                readings |= values_of(instrument.between(before, after))
        return readings

    def _tcp(self, meter: PeerMeter, peers: dict[Peer, TcpCounters]) -> TcpColumns:
        """Sums over the peers on other hosts, and over those on this host."""
        crossing = total(passed for peer, passed in peers.items() if not meter.is_local(peer))
        local = total(passed for peer, passed in peers.items() if meter.is_local(peer))
        dropped_packets = self._take_dropped_packets(crossing)
        return TcpColumns(
            tcp_tx_bytes=crossing.tx_bytes,
            tcp_rx_bytes=crossing.rx_bytes,
            tcp_local_tx_bytes=local.tx_bytes,
            tcp_local_rx_bytes=local.rx_bytes,
            tcp_retrans_bytes=retransmitted_bytes(crossing.repeated_bytes, self._dropped_packets),
            queue_dropped_packets=dropped_packets,
        )

    def _take_dropped_packets(self, tcp: TcpCounters) -> int | None:
        """Packets that the host's queue dropped in a step; read where TCP had to repeat something."""
        queue = self._instruments.queue
        if queue is None or not queue.available:
            self._dropped_packets = None
            return None
        if tcp.repeated_bytes <= 0:
            return 0
        dropped_packets = queue.take_dropped_packets()
        if dropped_packets is None or self._dropped_packets is None:
            self._dropped_packets = None
        else:
            self._dropped_packets += dropped_packets
        return dropped_packets

    def _phases(self, log: TransferLog | None) -> tuple[dict[str, float], float | None]:
        """Seconds of each phase without its waits; the backward pass ends when gradients are ready."""
        gradients_ready = log.take_gradients_ready() if log else None
        seconds: dict[str, float] = {}
        exposed_comm_s = 0.0
        start = self._start
        # Gradients are ready in the last of a step's backward passes.
        last = max((index for index, (phase, *_) in enumerate(self._laps) if phase == "backward"), default=-1)
        for index, (phase, mark, waits) in enumerate(self._laps):
            end = mark
            if index == last and gradients_ready is not None:
                end = gradients_ready
                exposed_comm_s += self._clock.seconds(gradients_ready, mark)
                waits = [each for each in waits if self._clock.seconds(each[0], gradients_ready) > 0]
            waited_s = sum(self._clock.seconds(*each) for each in waits)
            exposed_comm_s += waited_s
            seconds[phase] = seconds.get(phase, 0.0) + self._clock.seconds(start, end) - waited_s
            start = mark
        return seconds, exposed_comm_s if log else None

    def _transfer_record(self, transfer: Transfer) -> TransferRecord:
        return TransferRecord(
            cell=self._source.cell,
            rank=self._source.rank,
            step=transfer.step,
            op=transfer.op,
            bucket=transfer.bucket,
            peer=transfer.peer,
            payload_bytes=transfer.payload_bytes,
            t_launch_ns=transfer.t_launch_ns,
            t_done_ns=transfer.t_done_ns,
        )

    def _peer_record(self, peer: Peer, passed: TcpCounters) -> PeerRecord:
        assert self._instruments.peers is not None
        same_host = self._instruments.peers.is_local(peer)
        return PeerRecord(
            cell=self._source.cell,
            rank=self._source.rank,
            step=self._step,
            peer=self._instruments.peers.address(peer) if isinstance(peer, int) else peer,
            peer_rank=peer if isinstance(peer, int) else None,
            same_host=same_host,
            tx_bytes=passed.tx_bytes,
            rx_bytes=passed.rx_bytes,
            # The queue of the interface has no part in what stays on the host.
            retrans_bytes=retransmitted_bytes(
                passed.repeated_bytes, 0 if same_host else self._dropped_packets
            ),
            rtt_us=passed.rtt_us,
        )
