"""The worker's side of a parameter server: gradients are pushed as they become ready, parameters are pulled.

While the backward pass still runs, chunks with complete gradients are pushed. The shards answer each push
with the chunk's parameters, which are received directly into the model. The next forward pass starts at once,
and access to a parameter waits until its values have arrived.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import queue
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import torch
from torch import nn
from torch.distributed import Work

from distsqz.metering.transfers import Transfer, TransferLog
from distsqz.strategies.parameter_server.arrival import (
    ArrivingParameters,
    FirstForward,
    ParameterWrittenError,
    ServedParameter,
)
from distsqz.strategies.parameter_server.channel import NO_DEADLINE, DuplexChannel, wait
from distsqz.strategies.parameter_server.consistency import Consistency
from distsqz.strategies.parameter_server.flat import piece_digests, tensor_views, trained
from distsqz.strategies.parameter_server.layout import WINDOW, Layout, Piece
from distsqz.strategies.parameter_server.push import FAREWELL, PushHeader, new_message
from distsqz.strategies.parameter_server.shard import FIRST_CHUNK_TAG, PUSH_TAG, REPLY_TAG, REPLY_WORDS
from distsqz.strategies.parameter_server.strategy import PULL, PUSH
from distsqz.theory.placement import shard_name

FAREWELL_TIMEOUT_S = 5.0


class ServerClient:
    """Keeps a module's parameters up to date with the shards that own them."""

    def __init__(
        self,
        module: nn.Module,
        layout: Layout,
        channels: Sequence[DuplexChannel],
        consistency: Consistency,
        version: int,
        transfers: TransferLog | None,
        timeout_s: float,
    ) -> None:
        """Moves the parameters into one buffer, into which the network receives; their values do not change.

        Args:
            module: the model, with the same parameter values as the shards.
            layout: division of the parameters into chunks.
            channels: connections to the shards, by shard.
            consistency: rules by which the shards update.
            version: number of updates that the shards have made.
            transfers: log of pushes and pulls; None to record none.
            timeout_s: seconds within which a shard must answer.
        """
        self.model: nn.Module = _WaitingModel(module, self)
        """The module to call for the forward pass."""
        self._layout = layout
        self._skips = consistency.backup_workers > 0
        self._transfers = transfers
        # Under ssp a worker that is ahead waits without limit; only a broken connection ends the wait.
        self._timeout = NO_DEADLINE if consistency.mode == "ssp" else timedelta(seconds=timeout_s)
        self._parameters = [cast(ServedParameter, parameter) for parameter in trained(module)]
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        self._names = [names[id(parameter)] for parameter in self._parameters]
        self._indices = {id(parameter): index for index, parameter in enumerate(self._parameters)}
        self._dtype = self._parameters[0].dtype
        self._rows = torch.zeros(layout.chunks, layout.chunk_elements, dtype=self._dtype)
        self._places = tensor_views(self._rows.view(-1), self._parameters)
        for parameter, place in zip(self._parameters, self._places, strict=True):
            ServedParameter.adopt(parameter, place.copy_(parameter.detach()))
        self._writes = [0] * len(self._parameters)
        """Number of writes by the model to each parameter before the step."""
        self._messages = [new_message(layout, self._dtype) for _ in range(layout.chunks)]
        self._versions = [version] * layout.chunks
        self._step = 0
        self._lr = 0.0
        self._changed = threading.Condition()
        self._missing: set[int] = set()
        """Chunks that were pushed and whose answers have not arrived."""
        self._error: Exception | None = None
        self._staleness: dict[int, int] = {}
        """Largest staleness among the answers that have arrived, by step."""
        self._unanswered: Counter[int] = Counter()
        """Number of chunks that were pushed and whose answers have not arrived, by step."""
        self._pieces_by_chunk = layout.pieces_by_chunk()
        self._pieces: list[list[tuple[Piece, int]]] = [[] for _ in self._parameters]
        """Pieces of each parameter, each with its position among the pieces of its chunk."""
        for pieces in self._pieces_by_chunk:
            for place_in_chunk, piece in enumerate(pieces):
                self._pieces[piece.parameter].append((piece, place_in_chunk))
        self._chunks = [sorted({piece.chunk for piece, _ in pieces}) for pieces in self._pieces]
        self._open: Counter[int] = Counter()
        """Number of parameters in each chunk whose gradients are not ready yet in this step."""
        self._unused: Counter[int] = Counter()
        """Bits of the pieces whose parameters have no gradient in this step, by chunk."""
        self._ready: set[int] = set()
        self._first: FirstForward | None = None
        """Observer of the first forward pass; None before and after it."""
        self._learning = True
        """Whether the first step is still running. In it, all gradients are kept until its end."""
        self._kept: set[int] = set()
        """Parameters whose gradients are pushed at the end of the backward pass, because it may still read
        them."""
        self._unannounced: list[int] = []
        """Chunks of parameters that forward() reads without attribute access."""
        self._gradients: Counter[int] = Counter()
        """Number of accumulations into each parameter's gradient in the first step."""
        self._backward = False
        self._lanes = [_Lane(self, shard, channel) for shard, channel in enumerate(channels)]
        self._hooks: list[Any] = []
        self._hook_gradients()
        self._parts = ArrivingParameters.install(module, self._accessed, self._refuse_loss)

    def begin(self, step: int, lr: float) -> None:
        """Starts a step.

        Args:
            step: number of the step.
            lr: learning rate of its update.
        """
        self._step = step
        self._lr = lr
        self._ready.clear()
        self._unused.clear()
        self._open = Counter(piece.chunk for piece in self._layout.pieces)
        self._writes = [parameter.writes for parameter in self._parameters]

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        """Context of a forward pass; waits first for parameters that it reads without attribute access."""
        self._backward = False
        self._wait_for(self._unannounced)
        if not (self._learning and torch.is_grad_enabled()):
            yield
        else:
            starts = itertools.accumulate((each.numel() for each in self._parameters), initial=0)
            with FirstForward(self._rows, [*starts][:-1], self._names) as self._first:
                yield
            # Parameters that this pass did not use may be read either way in a later one.
            unannounced = self._first.unannounced | self._first.unseen
            self._unannounced = sorted({chunk for index in unannounced for chunk in self._chunks[index]})
            self._kept |= self._first.detached | self._first.unseen
            self._first = None
        self._backward = True

    def finish(self, *, wait_for_answers: bool) -> None:
        """Ends a step: pushes kept gradients, and marks parameters without a gradient as unused.

        Args:
            wait_for_answers: whether to wait for all answers, for steps that no forward pass follows.

        Raises:
            ParameterWrittenError: the model has changed one of its parameters.
        """
        self._backward = False
        self._refuse_written()
        for index, parameter in enumerate(self._parameters):
            if index in self._ready:
                continue
            if parameter.grad is not None:
                self._gradient_ready(index, parameter.grad)
                parameter.grad = None
            else:
                self._no_gradient(index)
        if self._learning:
            self._kept |= {index for index, times in self._gradients.items() if times > 1}
            self._learning = False
        if wait_for_answers:
            self._wait_for(range(self._layout.chunks))

    def digests(self) -> dict[tuple[int, int], int]:
        """Digest of each piece, by parameter and first element. No chunk may be in transit."""
        return {
            key: value
            for chunk, pieces in enumerate(self._pieces_by_chunk)
            for key, value in piece_digests(self._rows[chunk], pieces).items()
        }

    def name_of(self, parameter: int) -> str:
        """Name of a parameter in the model."""
        return self._names[parameter]

    def staleness(self, step: int) -> int | None:
        """Most updates by others that a push of the step missed; None until all pushes are answered."""
        with self._changed:
            if self._unanswered[step]:
                return None
            del self._unanswered[step]
            return self._staleness.pop(step, 0)

    @property
    def under_way(self) -> bool:
        """Whether the answer to a push is still outstanding."""
        with self._changed:
            return bool(self._missing)

    @property
    def version(self) -> int:
        """Least number of updates over all chunks, as received."""
        with self._changed:
            return min(self._versions)

    def close(self) -> None:
        """Tells the shards that the worker is done, and breaks the connections."""
        for hook in self._hooks:
            hook.remove()
        ArrivingParameters.remove(self._parts)
        for lane in self._lanes:
            lane.finish()
        for lane in self._lanes:
            lane.close()

    def _hook_gradients(self) -> None:
        for index, parameter in enumerate(self._parameters):

            def ready(of: torch.Tensor, index: int = index) -> None:
                if self._learning:
                    self._gradients[index] += 1
                if self._learning or index in self._kept:
                    return  # more may be accumulated, or the parameter read, until the backward pass ends
                if index in self._ready:
                    raise RuntimeError(
                        f"the gradient of {self._names[index]} was added to after it had been sent, as under "
                        "reentrant checkpointing; checkpoint with use_reentrant=False"
                    )
                assert of.grad is not None
                self._gradient_ready(index, of.grad)
                of.grad = None

            hook = parameter.register_post_accumulate_grad_hook(ready)  # type: ignore[no-untyped-call]
            self._hooks.append(hook)

    def _gradient_ready(self, index: int, gradient: torch.Tensor) -> None:
        place = self._places[index]
        if gradient.stride() != place.stride():
            gradient = torch.empty_like(place).copy_(gradient)
        flat = gradient.as_strided((gradient.numel(),), (1,), gradient.storage_offset())
        self._fill(index, flat)

    def _no_gradient(self, index: int) -> None:
        for piece, place in self._pieces[index]:
            self._unused[piece.chunk] |= 1 << place
        self._fill(index, None)

    def _fill(self, index: int, flat: torch.Tensor | None) -> None:
        """Copies a parameter's gradient, or zeros, into its chunks, and pushes chunks that are complete."""
        self._ready.add(index)
        # The parameters of a module that the forward pass did not call have not been waited for.
        self._wait_for([chunk for chunk in self._chunks[index] if self._open[chunk] > 0])
        for piece, _ in self._pieces[index]:
            place = self._messages[piece.chunk][piece.offset : piece.offset + piece.elements]
            if flat is None:
                place.zero_()
            else:
                place.copy_(flat[piece.begin : piece.begin + piece.elements])
            self._open[piece.chunk] -= 1
            if self._open[piece.chunk] == 0:
                self._push(piece.chunk)

    def _refuse_written(self) -> None:
        for index, (parameter, place) in enumerate(zip(self._parameters, self._places, strict=True)):
            if (
                parameter.writes != self._writes[index]
                or parameter.data_ptr() != place.data_ptr()
                or parameter.shape != place.shape
            ):
                raise ParameterWrittenError(self._names[index])

    def _refuse_loss(self, parameter: nn.Parameter) -> None:
        index = self._indices.get(id(parameter))
        if index is not None:
            raise ParameterWrittenError(self._names[index])

    def _accessed(self, parameter: nn.Parameter) -> None:
        """Waits for a parameter that is about to be used."""
        index = self._indices.get(id(parameter))
        if index is None:
            return
        if self._first:
            self._first.announce(index)
        if self._backward:
            self._used_in_backward(index)
        self._wait_for(self._chunks[index])

    def _used_in_backward(self, index: int) -> None:
        """Handles a use in the backward pass, which needs the same values as the forward pass."""
        if self._learning and self._gradients[index]:
            self._kept.add(index)
        elif index in self._ready and index not in self._kept:
            raise RuntimeError(
                f"{self._names[index]} was used in the backward pass after its gradient had been sent, by a "
                "hook of the model or by reentrant checkpointing; train it with all-reduce, or checkpoint "
                "with use_reentrant=False"
            )

    def _push(self, chunk: int) -> None:
        if self._skips and self._versions[chunk] > self._step:
            return  # this update was made without this worker, and its result has arrived
        header = PushHeader(chunk, self._versions[chunk], self._lr, self._step, self._unused[chunk])
        header.write(self._messages[chunk], self._layout)
        with self._changed:
            self._missing.add(chunk)
            self._unanswered[self._step] += 1
        shard = self._layout.shard_of(chunk)
        push = pull = None
        if self._transfers:
            payload_bytes = self._dtype.itemsize * self._layout.chunk_size(chunk)
            push = self._transfers.launch(PUSH, chunk, payload_bytes, shard_name(shard), late=True)
            pull = self._transfers.launch(PULL, chunk, payload_bytes, shard_name(shard), late=True)
        self._lanes[shard].push(_Exchange(chunk, self._step, push, pull))

    def _wait_for(self, chunks: Sequence[int]) -> None:
        """Waits until all of `chunks` have arrived; the time counts as exposed communication."""
        with self._changed:
            if self._error is None and self._missing.isdisjoint(chunks):
                return
            with self._transfers.waiting() if self._transfers else contextlib.nullcontext():
                self._changed.wait_for(lambda: self._error or self._missing.isdisjoint(chunks))
            if self._error:
                raise self._error

    def arrived(self, chunk: int, step: int, version: int, staleness: int) -> None:
        """Called when the parameters of a chunk have arrived, in answer to a push of `step`."""
        with self._changed:
            self._versions[chunk] = version
            self._staleness[step] = max(self._staleness.get(step, 0), staleness)
            self._unanswered[step] -= 1
            self._missing.discard(chunk)
            self._changed.notify_all()

    def fail(self, error: Exception) -> None:
        """Makes all current and later waits raise `error`."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()


class _WaitingModel(nn.Module):
    """The model, whose forward pass first waits for parameters that it reads without attribute access."""

    def __init__(self, module: nn.Module, client: ServerClient) -> None:
        super().__init__()
        self.module = module
        self._client = client

    def forward(self, *inputs: Any) -> Any:
        """Runs the module's forward pass."""
        with self._client.forward():
            return self.module(*inputs)


@dataclass(slots=True, order=True)
class _Exchange:
    """The push of a chunk and the pull that answers it. The most urgent chunk sorts first."""

    chunk: int
    step: int = field(compare=False)
    push: Transfer | None = field(compare=False)
    pull: Transfer | None = field(compare=False)
    sent: Work | None = field(default=None, compare=False)
    received: Work | None = field(default=None, compare=False)


class _Lane:
    """Exchanges with one shard: one thread pushes chunks, the most urgent first, and one receives answers."""

    def __init__(self, client: ServerClient, shard: int, channel: DuplexChannel) -> None:
        self._client = client
        self._channel = channel
        self._peer = shard_name(shard)
        self._changed = threading.Condition()
        self._waiting: list[_Exchange] = []
        self._closing = False
        self._expected: queue.SimpleQueue[tuple[torch.Tensor, Work] | None] = queue.SimpleQueue()
        self._under_way: dict[int, _Exchange] = {}
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=self._peer, daemon=True)
            for work in (self._push_all, self._receive_answers)
        ]
        for thread in self._threads:
            thread.start()

    def push(self, exchange: _Exchange) -> None:
        """Queues a push; more urgent chunks are sent first."""
        with self._changed:
            heapq.heappush(self._waiting, exchange)
            self._changed.notify()

    def finish(self) -> None:
        """Ends the threads when everything that is queued has been sent."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def close(self) -> None:
        """Waits for the last push, at most some seconds, and breaks the connection."""
        self._threads[0].join(FAREWELL_TIMEOUT_S)
        self._channel.close()

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except ConnectionError as error:
            self._client.fail(ConnectionError(f"{self._peer}: {error}"))
            self._expected.put(None)
        except Exception as error:
            self._client.fail(error)
            self._expected.put(None)

    def _push_all(self) -> None:
        client, sent = self._client, deque[_Exchange]()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or sent or self._closing)
                exchange = heapq.heappop(self._waiting) if self._waiting else None
            if exchange:
                self._begin(exchange)
                sent.append(exchange)
            if sent and (exchange is None or len(sent) >= WINDOW):
                first = sent.popleft()
                assert first.sent is not None
                wait(first.sent, client._timeout)
                if first.push:
                    first.push.done()
            elif exchange is None:
                break
        self._expected.put(None)
        farewell = new_message(client._layout, client._dtype)
        PushHeader(FAREWELL, 0, 0.0, 0).write(farewell, client._layout)
        wait(self._channel.push.send(farewell, PUSH_TAG), client._timeout)

    def _begin(self, exchange: _Exchange) -> None:
        """Posts the receives for the answer, then sends the gradients."""
        client, chunk = self._client, exchange.chunk
        exchange.received = self._channel.pull.receive(client._rows[chunk], FIRST_CHUNK_TAG + chunk)
        words = torch.empty(REPLY_WORDS, dtype=torch.int32)
        reply = self._channel.pull.receive(words, REPLY_TAG)
        self._under_way[chunk] = exchange
        self._expected.put((words, reply))
        exchange.sent = self._channel.push.send(client._messages[chunk], PUSH_TAG)

    def _receive_answers(self) -> None:
        while (expected := self._expected.get()) is not None:
            words, reply = expected
            wait(reply, self._client._timeout)
            chunk, version, staleness = words.tolist()
            exchange = self._under_way.pop(chunk)
            assert exchange.received is not None
            wait(exchange.received, self._client._timeout)
            for transfer in (exchange.push, exchange.pull):
                if transfer:
                    transfer.done()  # the answer may arrive before the pushing thread notices
            self._client.arrived(chunk, exchange.step, version, staleness)
