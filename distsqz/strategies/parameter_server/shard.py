"""A shard of a parameter server: owns chunks, sums gradients, updates parameters and sends them back.

Source: Li et al., "Scaling Distributed Machine Learning with the Parameter Server" (OSDI 2014). Parameters
that the next forward pass needs first are sent first, as in Jayarajan et al., "Priority-based Parameter
Propagation for Distributed DNN Training" (MLSys 2019).
"""

from __future__ import annotations

import contextlib
import heapq
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch.distributed import Work
from torch.distributed.distributed_c10d import Store
from torch.optim.sgd import sgd  # the class torch.optim.SGD loads torch's compiler: 80 MB

from distsqz.metering.clock import NS_PER_S
from distsqz.metering.schema import UpdateRecord
from distsqz.metering.transfers import now_ns
from distsqz.strategies.parameter_server.channel import SHARD_END, DuplexChannel, wait
from distsqz.strategies.parameter_server.consistency import Consistency
from distsqz.strategies.parameter_server.flat import piece_digests
from distsqz.strategies.parameter_server.layout import WINDOW, Layout
from distsqz.strategies.parameter_server.push import FAREWELL, PushHeader, new_message
from distsqz.strategies.parameter_server.staleness import StalenessGate
from distsqz.strategies.sgd import can_fuse

PUSH_TAG, REPLY_TAG, FIRST_CHUNK_TAG = 0, 1, 2
REPLY_WORDS = 3
"""Words of a reply: chunk, version, staleness."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSettings:
    """Settings that all shards of a cell share."""

    cell: str
    workers: int
    momentum: float
    weight_decay: float
    consistency: Consistency
    attempt: int = 0
    """Number of earlier starts of the group."""


@dataclass(slots=True)
class _Push:
    """A received push: the gradients of one chunk."""

    header: PushHeader
    message: torch.Tensor
    port: _Port
    arrived_ns: int
    service_s: float = 0.0
    queue_wait_s: float = 0.0

    @property
    def gradients(self) -> torch.Tensor:
        """The gradients, without the header."""
        return self.message[: self.port.shard.layout.chunk_elements]


@dataclass(slots=True)
class _Chunk:
    """The state of one chunk."""

    number: int
    parameters: torch.Tensor
    momentum: torch.Tensor | None
    """Momentum of SGD; None before the first update."""
    gate: StalenessGate
    version: int = 0
    """Updates made so far."""
    sum: torch.Tensor | None = None
    """Gradients of this update added so far, in a message's memory."""
    counted: list[_Push] = field(default_factory=list)
    """The pushes in the sum."""
    unused: int = 0
    """Bit i is set where the i-th piece has no gradient in the sum."""
    early: dict[int, _Push] = field(default_factory=dict)
    """Pushes that arrived before those of lower ranks, by rank."""
    held: dict[int, int] = field(default_factory=dict)
    """Staleness of the answers that wait for slower workers, by rank."""
    pushed: dict[int, int] = field(default_factory=dict)
    """Number of steps that each worker has pushed, by rank; workers that are gone are included."""
    read: dict[int, int] = field(default_factory=dict)
    """Version that each worker has received, by rank."""


class Shard:
    """The chunks of one cell that one server owns."""

    def __init__(
        self,
        index: int,
        rows: torch.Tensor,
        layout: Layout,
        settings: ShardSettings,
        host: str,
        momentum: torch.Tensor | None = None,
        version: int = 0,
        report: Callable[[UpdateRecord], None] | None = None,
    ) -> None:
        """Starts with the parameters in `rows`.

        Args:
            index: index of the shard.
            rows: parameters of the chunks that it owns, [chunks, chunk_elements]. The shard updates them in
                place.
            layout: division of the parameters into chunks.
            settings: settings of the cell.
            host: label of the host that the shard runs on, for records.
            momentum: momentum to resume with, shaped like `rows`.
            version: number of updates made so far.
            report: receives a record of every push.
        """
        self.layout = layout
        self.settings = settings
        self.index = index
        self.host = host
        self.lock = threading.Lock()
        self.dtype = rows.dtype
        self._report = report
        owned = layout.owned_by(index)
        self._pieces = layout.pieces_by_chunk()
        self._chunks = {
            number: _Chunk(
                number,
                rows[place],
                None if momentum is None else momentum[place],
                StalenessGate((), settings.consistency.lead),
                version,
            )
            for place, number in enumerate(owned)
        }
        self._ports: dict[int, _Port] = {}
        self._spare: list[torch.Tensor] = []

    def admit(self, rank: int, store: Store, name: str, address: str, step: int = 0) -> None:
        """Connects to a worker, which must connect too, and serves it until it is done or gone.

        Args:
            rank: rank of the worker.
            store: the store through which both find each other.
            name: name of the connection, used only once.
            address: address of this host at which the worker reaches it.
            step: step that the worker starts with.
        """
        port = _Port(self, rank, DuplexChannel.connect(store, name, SHARD_END, address))
        with self.lock:
            before = self._ports.pop(rank, None)
            self._ports[rank] = port
            for chunk in self._chunks.values():
                chunk.held.pop(rank, None)
                chunk.gate.join(rank, step)
                chunk.read[rank] = chunk.version
                chunk.pushed[rank] = step
        if before:
            before.channel.close()  # the former worker is gone, but its connection is not broken yet
        port.start()

    @property
    def workers(self) -> list[int]:
        """Ranks of the connected workers."""
        with self.lock:
            return list(self._ports)

    def parameters(self) -> dict[int, torch.Tensor]:
        """A copy of the parameters, by chunk."""
        with self.lock:
            return {number: chunk.parameters.clone() for number, chunk in self._chunks.items()}

    def progress(self, rank: int) -> int:
        """Number of steps for which a worker has pushed every chunk; the worker may be gone."""
        with self.lock:
            if self.settings.consistency.mode == "sync":
                return min(chunk.version for chunk in self._chunks.values())
            return min(chunk.pushed.get(rank, 0) for chunk in self._chunks.values())

    def momentum(self) -> dict[int, torch.Tensor]:
        """A copy of the optimizer's momentum, by chunk; zeros before the first update."""
        with self.lock:
            return {
                number: torch.zeros_like(chunk.parameters)
                if chunk.momentum is None
                else chunk.momentum.clone()
                for number, chunk in self._chunks.items()
            }

    def digests(self) -> dict[tuple[int, int], int]:
        """Digest of each owned piece, by parameter and first element."""
        with self.lock:
            return {
                key: value
                for number, chunk in self._chunks.items()
                for key, value in piece_digests(chunk.parameters, self._pieces[number]).items()
            }

    def close(self) -> None:
        """Breaks every connection."""
        with self.lock:
            ports = list(self._ports.values())
        for port in ports:
            port.channel.close()

    def take(self, push: _Push) -> None:
        """Handles a push: sums, updates and answers as the consistency requires."""
        consistency = self.settings.consistency
        with self.lock:
            if self._ports.get(push.port.rank) is not push.port:
                return  # the worker has been replaced
            chunk = self._chunks[push.header.chunk]
            if consistency.mode != "sync":
                self._update_from_one(chunk, push)
            elif consistency.backup_workers:
                self._add_unless_late(chunk, push)
            else:
                self._add_in_turn(chunk, push)

    def leave(self, rank: int, port: _Port, *, done: bool) -> None:
        """Removes a worker that is done or gone, so that others no longer wait for it.

        If all workers must take part, one that is gone ends the training of all: their connections are
        broken.
        """
        with self.lock:
            if self._ports.get(rank) is not port:
                return  # a replacement is connected
            del self._ports[rank]
            for chunk in self._chunks.values():
                chunk.gate.leave(rank)
                chunk.held.pop(rank, None)
                self._answer_held(chunk)
        if not done and self.settings.consistency.together:
            self.close()

    def _update_from_one(self, chunk: _Chunk, push: _Push) -> None:
        rank = push.port.rank
        staleness = chunk.version - chunk.read[rank]
        with _serving(push):
            self._update(chunk, push.gradients, push.header.lr, push.header.unused)
        self._recycle(push)
        self._record(push, staleness)
        chunk.gate.finish(rank)
        chunk.pushed[rank] += 1
        chunk.held[rank] = staleness
        self._answer_held(chunk)

    def _add_in_turn(self, chunk: _Chunk, push: _Push) -> None:
        """Sums in the order of ranks: the result is the same, bit by bit, for any order of arrival."""
        chunk.early[push.port.rank] = push
        while len(chunk.counted) in chunk.early:
            self._add(chunk, chunk.early.pop(len(chunk.counted)))
        if len(chunk.counted) == self.settings.workers:
            self._update_from_sum(chunk, push)

    def _add_unless_late(self, chunk: _Chunk, push: _Push) -> None:
        """Sums in the order of arrival; a push whose update has already been made is dropped."""
        late = chunk.version - push.header.version
        if late > 0:
            self._recycle(push)
            self._record(push, late, dropped=True)
            self._ports[push.port.rank].reply(chunk.number, late)
            return
        self._add(chunk, push)
        enough = self.settings.workers - self.settings.consistency.backup_workers
        if len(chunk.counted) == enough:
            assert chunk.sum is not None
            with _serving(push):
                # Workers divide by the number of all workers; the average over fewer is larger.
                chunk.sum.mul_(self.settings.workers / enough)
            self._update_from_sum(chunk, push)

    def _add(self, chunk: _Chunk, push: _Push) -> None:
        with _serving(push):
            if chunk.sum is None:
                chunk.sum = push.gradients
                chunk.unused = push.header.unused
            else:
                chunk.sum.add_(push.gradients)
                chunk.unused &= push.header.unused
        if chunk.counted:
            self._recycle(push)
        else:
            push.port.post(self._message())  # its memory now holds the sum
        chunk.counted.append(push)

    def _update_from_sum(self, chunk: _Chunk, last: _Push) -> None:
        assert chunk.sum is not None
        with _serving(last):
            self._update(chunk, chunk.sum, last.header.lr, chunk.unused)
        self._spare.append(chunk.counted[0].message)
        chunk.sum = None
        for push in chunk.counted:
            self._record(push, staleness=0)
            if self._ports.get(push.port.rank) is push.port:
                push.port.reply(chunk.number, staleness=0)
        chunk.counted.clear()

    def _update(self, chunk: _Chunk, gradients: torch.Tensor, lr: float, unused: int) -> None:
        """Makes one step of SGD. As in torch, parameters without a gradient do not change."""
        if unused:
            parts = [
                slice(piece.offset, piece.offset + piece.elements)
                for place, piece in enumerate(self._pieces[chunk.number])
                if not unused >> place & 1
            ]
            if chunk.momentum is None and self.settings.momentum:
                chunk.momentum = torch.zeros_like(chunk.parameters)
        else:
            parts = [slice(None)]
        momentum = [None if chunk.momentum is None else chunk.momentum[part] for part in parts]
        sgd(
            [chunk.parameters[part] for part in parts],
            [gradients[part] for part in parts],
            momentum,
            foreach=False,
            fused=can_fuse([chunk.parameters]),
            lr=lr,
            momentum=self.settings.momentum,
            weight_decay=self.settings.weight_decay,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        if not unused:
            (chunk.momentum,) = momentum
        chunk.version += 1

    def _answer_held(self, chunk: _Chunk) -> None:
        """Answers workers that are no longer too far ahead of the slowest."""
        for rank in list(chunk.held):
            if chunk.gate.may_begin(rank):
                self._ports[rank].reply(chunk.number, chunk.held.pop(rank))

    def _recycle(self, push: _Push) -> None:
        """Receives the worker's next message into the memory of this one."""
        push.port.post(push.message)

    def _message(self) -> torch.Tensor:
        return self._spare.pop() if self._spare else new_message(self.layout, self.dtype)

    def _record(self, push: _Push, staleness: int, dropped: bool = False) -> None:
        if self._report:
            self._report(
                UpdateRecord(
                    cell=self.settings.cell,
                    shard=self.index,
                    host=self.host,
                    rank=push.port.rank,
                    step=push.header.step,
                    version=push.header.version,
                    attempt=self.settings.attempt,
                    bucket=push.header.chunk,
                    staleness=staleness,
                    dropped=dropped,
                    t_arrive_ns=push.arrived_ns,
                    queue_wait_s=push.queue_wait_s,
                    service_s=push.service_s,
                )
            )

    def parameters_to_send(self, number: int, rank: int) -> tuple[torch.Tensor, int]:
        """A chunk's parameters and version; a copy if others may update them during the transfer."""
        with self.lock:
            chunk = self._chunks[number]
            chunk.read[rank] = chunk.version
            parameters = chunk.parameters
            if not self.settings.consistency.together:
                parameters = parameters.clone()
            return parameters, chunk.version


class _Port:
    """Connection of a shard to one worker, with a thread that receives and a thread that answers."""

    def __init__(self, shard: Shard, rank: int, channel: DuplexChannel) -> None:
        self.shard = shard
        self.rank = rank
        self.channel = channel
        self._changed = threading.Condition()
        self._posted: deque[tuple[Work, torch.Tensor]] = deque()
        self._answers: list[tuple[int, int]] = []
        """Chunks to send, each with the staleness of the update that it answers."""
        self._closed = False

    def start(self) -> None:
        """Starts to serve."""
        for _ in range(WINDOW):
            self.post(new_message(self.shard.layout, self.shard.dtype))
        for work in (self._receive, self._send):
            threading.Thread(target=work, name=f"port-{self.rank}", daemon=True).start()

    def post(self, message: torch.Tensor) -> None:
        """Posts a receive for one more message. Gloo sends nothing that the other end has no receive for."""
        with self._changed:
            if self._closed:
                return
            try:
                self._posted.append((self.channel.push.receive(message, PUSH_TAG), message))
            except ConnectionError:
                self._closed = True  # wakes the receiving thread, which may have nothing else to wait for
            self._changed.notify_all()

    def reply(self, chunk: int, staleness: int) -> None:
        """Queues an answer; more urgent chunks are sent first."""
        with self._changed:
            heapq.heappush(self._answers, (chunk, staleness))
            self._changed.notify_all()

    def _receive(self) -> None:
        done = False
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._posted or self._closed)
                    if not self._posted:
                        break
                    work, message = self._posted.popleft()
                wait(work)
                header = PushHeader.read(message, self.shard.layout)
                done = header.chunk == FAREWELL
                if done:
                    break
                self.shard.take(_Push(header, message, self, now_ns()))
        except ConnectionError:
            pass  # handled below
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
            self.shard.leave(self.rank, self, done=done)

    def _send(self) -> None:
        under_way: deque[tuple[torch.Tensor, torch.Tensor, Work, Work]] = deque()
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._answers or under_way or self._closed)
                    if self._closed and not self._answers:
                        break
                    answer = heapq.heappop(self._answers) if self._answers else None
                if answer:
                    chunk, staleness = answer
                    parameters, version = self.shard.parameters_to_send(chunk, self.rank)
                    words = torch.tensor([chunk, version, staleness], dtype=torch.int32)
                    sent = self.channel.pull.send(parameters, FIRST_CHUNK_TAG + chunk)
                    # Sent after the parameters on the same connection: when it has arrived, so have they.
                    reply = self.channel.pull.send(words, REPLY_TAG)
                    under_way.append((parameters, words, sent, reply))
                if under_way and (answer is None or len(under_way) >= WINDOW):
                    *_, sent, reply = under_way.popleft()
                    wait(sent)
                    wait(reply)
        except ConnectionError:
            pass  # the receiving thread meets the same error and handles it


@contextlib.contextmanager
def _serving(push: _Push) -> Iterator[None]:
    """Records the time that a shard works on a push, and the time that the push waited before."""
    begin_ns = now_ns()
    if push.service_s == 0:
        push.queue_wait_s = (begin_ns - push.arrived_ns) / NS_PER_S
    yield
    push.service_s += (now_ns() - begin_ns) / NS_PER_S
