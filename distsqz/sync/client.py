"""A worker's side of a parameter server: gradients leave as they are ready, parameters come back in place.

While the backward pass still runs, chunks whose gradients are complete are pushed; the shards answer each
with its parameters, which the network writes straight into the model. The next forward pass begins at once;
looking a parameter up waits until its values have come.
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
from distsqz.sync.arrival import ArrivingParameters, FirstForward, ParameterWrittenError, ServedParameter
from distsqz.sync.channel import NO_DEADLINE, DuplexChannel, shard_name, wait
from distsqz.sync.consistency import Consistency
from distsqz.sync.flat import piece_digests, tensor_views, trained
from distsqz.sync.layout import WINDOW, Layout, Piece
from distsqz.sync.push import FAREWELL, PushHeader, new_message
from distsqz.sync.shard import FIRST_CHUNK_TAG, PUSH_TAG, REPLY_TAG, REPLY_WORDS

PUSH, PULL = "push", "pull"
FAREWELL_TIMEOUT_S = 5.0


class ServerClient:
    """Keeps a module's parameters in step with the shards that own them."""

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
        """Moves the parameters into memory that the network reaches; their values stay.

        Args:
            module: the model, with the very parameters that the shards began with.
            layout: how it is cut.
            channels: this worker's ends of the connections, by shard.
            consistency: what the shards promise.
            version: updates that the shards have made so far.
            transfers: where each push and pull is noted.
            timeout_s: how long a shard may take to answer.
        """
        self.model: nn.Module = _WaitingModel(module, self)
        """To be called for the forward pass."""
        self._layout = layout
        self._skips = consistency.backup_workers > 0
        self._transfers = transfers
        # Under ssp who is ahead waits for the slowest, however long that takes: only a lost connection tells.
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
        """Of the model to each parameter, before the step."""
        self._messages = [new_message(layout, self._dtype) for _ in range(layout.chunks)]
        self._versions = [version] * layout.chunks
        self._step = 0
        self._lr = 0.0
        self._changed = threading.Condition()
        self._missing: set[int] = set()
        """Chunks that are pushed and have not come back."""
        self._error: Exception | None = None
        self._staleness: dict[int, int] = {}
        """By step: the most of the answers that have come."""
        self._unanswered: Counter[int] = Counter()
        """By step: chunks that are pushed and have not come back."""
        self._pieces_by_chunk = layout.pieces_by_chunk()
        self._pieces: list[list[tuple[Piece, int]]] = [[] for _ in self._parameters]
        """The pieces of each parameter, with the place of each among those of its chunk."""
        for pieces in self._pieces_by_chunk:
            for place_in_chunk, piece in enumerate(pieces):
                self._pieces[piece.parameter].append((piece, place_in_chunk))
        self._chunks = [sorted({piece.chunk for piece, _ in pieces}) for pieces in self._pieces]
        self._open: Counter[int] = Counter()
        """Parameters of a chunk whose gradients are still to come, in this step."""
        self._unused: Counter[int] = Counter()
        """By chunk: a bit for each piece whose parameter has no gradient in this step."""
        self._ready: set[int] = set()
        self._first: FirstForward | None = None
        """What watches the first forward pass; None before and after it."""
        self._learning = True
        """Whether the first step is not over, in which all gradients are kept until its end."""
        self._kept: set[int] = set()
        """Parameters whose gradients are pushed at the end of the backward pass, as it may read them."""
        self._unannounced: list[int] = []
        """Chunks of parameters that forward() reads without looking them up."""
        self._gradients: Counter[int] = Counter()
        """How often each parameter's gradient was added to in the first step."""
        self._backward = False
        self._lanes = [_Lane(self, shard, channel) for shard, channel in enumerate(channels)]
        self._hooks: list[Any] = []
        self._hook_gradients()
        self._parts = ArrivingParameters.install(module, self._looked_up, self._refuse_loss)

    def begin(self, step: int, lr: float) -> None:
        """A step begins, whose update is to be made with this learning rate."""
        self._step = step
        self._lr = lr
        self._ready.clear()
        self._unused.clear()
        self._open = Counter(piece.chunk for piece in self._layout.pieces)
        self._writes = [parameter.writes for parameter in self._parameters]

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        """Around a forward pass of the whole model: what it reads has arrived."""
        self._backward = False
        self._wait_for(self._unannounced)
        if not (self._learning and torch.is_grad_enabled()):
            yield
        else:
            starts = itertools.accumulate((each.numel() for each in self._parameters), initial=0)
            with FirstForward(self._rows, [*starts][:-1], self._names) as self._first:
                yield
            # Parts that this pass left out may do either in a later one.
            unannounced = self._first.unannounced | self._first.unseen
            self._unannounced = sorted({chunk for index in unannounced for chunk in self._chunks[index]})
            self._kept |= self._first.detached | self._first.unseen
            self._first = None
        self._backward = True

    def finish(self, *, wait_for_answers: bool) -> None:
        """The backward pass is over: what is kept is pushed, and what had no part in it is said to be unused.

        Args:
            wait_for_answers: also waits until every chunk is back, where no forward pass will.

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
        """A digest of each piece, by its parameter and first element; no chunk may be under way."""
        return {
            key: value
            for chunk, pieces in enumerate(self._pieces_by_chunk)
            for key, value in piece_digests(self._rows[chunk], pieces).items()
        }

    def name_of(self, parameter: int) -> str:
        """A parameter's name in the model."""
        return self._names[parameter]

    def staleness(self, step: int) -> int | None:
        """The most updates by others that any of a step's own missed; None until all are answered."""
        with self._changed:
            if self._unanswered[step]:
                return None
            del self._unanswered[step]
            return self._staleness.pop(step, 0)

    @property
    def under_way(self) -> bool:
        """Whether a chunk that was pushed has not come back yet."""
        with self._changed:
            return bool(self._missing)

    @property
    def version(self) -> int:
        """Updates made to every chunk that is here, at least."""
        with self._changed:
            return min(self._versions)

    def close(self) -> None:
        """Says farewell to the shards and breaks the connections."""
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
                    return  # it may be added to, or its parameter be read, until the backward pass is over
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
        """Puts a parameter's gradient, or zeros, into its chunks; those that are complete are pushed."""
        self._ready.add(index)
        # A module that took no part in this step's forward pass has not waited for its parameters.
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

    def _looked_up(self, parameter: nn.Parameter) -> None:
        """Waits for a parameter that somebody is about to use."""
        index = self._indices.get(id(parameter))
        if index is None:
            return
        if self._first:
            self._first.announce(index)
        if self._backward:
            self._used_in_backward(index)
        self._wait_for(self._chunks[index])

    def _used_in_backward(self, index: int) -> None:
        """Sees to a use, by checkpointing or a hook, that needs the values of the forward pass."""
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
            return  # others have made this update without waiting, and its result is here already
        header = PushHeader(chunk, self._versions[chunk], self._lr, self._step, self._unused[chunk])
        header.write(self._messages[chunk], self._layout)
        with self._changed:
            self._missing.add(chunk)
            self._unanswered[self._step] += 1
        shard = self._layout.shard_of(chunk)
        push = pull = None
        if self._transfers:
            payload_bytes = self._dtype.itemsize * self._layout.chunk_size(chunk)
            push = self._transfers.launch(PUSH, chunk, payload_bytes, shard_name(shard))
            pull = self._transfers.launch(PULL, chunk, payload_bytes, shard_name(shard))
        self._lanes[shard].push(_Exchange(chunk, self._step, push, pull))

    def _wait_for(self, chunks: Sequence[int]) -> None:
        """Returns when all of `chunks` are here; the time is noted as exposed communication."""
        with self._changed:
            if self._error is None and self._missing.isdisjoint(chunks):
                return
            with self._transfers.waiting() if self._transfers else contextlib.nullcontext():
                self._changed.wait_for(lambda: self._error or self._missing.isdisjoint(chunks))
            if self._error:
                raise self._error

    def arrived(self, chunk: int, step: int, version: int, staleness: int) -> None:
        """A chunk's parameters are in place, in answer to a step's gradients."""
        with self._changed:
            self._versions[chunk] = version
            self._staleness[step] = max(self._staleness.get(step, 0), staleness)
            self._unanswered[step] -= 1
            self._missing.discard(chunk)
            self._changed.notify_all()

    def fail(self, error: Exception) -> None:
        """Whoever waits, now or later, is told of `error`."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()


class _WaitingModel(nn.Module):
    """The model; what its forward pass needs, and no hook could wait for, is waited for first."""

    def __init__(self, module: nn.Module, client: ServerClient) -> None:
        super().__init__()
        self.module = module
        self._client = client

    def forward(self, *inputs: Any) -> Any:
        """The module's own forward pass."""
        with self._client.forward():
            return self.module(*inputs)


@dataclass(slots=True, order=True)
class _Exchange:
    """Gradients out, parameters in; the most urgent one first in order."""

    chunk: int
    step: int = field(compare=False)
    push: Transfer | None = field(compare=False)
    pull: Transfer | None = field(compare=False)
    sent: Work | None = field(default=None, compare=False)
    received: Work | None = field(default=None, compare=False)


class _Lane:
    """The way to one shard and back: a thread pushes the most urgent chunk first, one takes answers."""

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
            for work in (self._push_all, self._take_answers)
        ]
        for thread in self._threads:
            thread.start()

    def push(self, exchange: _Exchange) -> None:
        """Sends a chunk's gradients as soon as no more urgent ones are to be sent."""
        with self._changed:
            heapq.heappush(self._waiting, exchange)
            self._changed.notify()

    def finish(self) -> None:
        """Lets its threads end, once all that waits is sent."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def close(self) -> None:
        """Waits a while for that, and ends the connection."""
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
        """The place for the answer first, then the gradients that it answers."""
        client, chunk = self._client, exchange.chunk
        exchange.received = self._channel.pull.receive(client._rows[chunk], FIRST_CHUNK_TAG + chunk)
        words = torch.empty(REPLY_WORDS, dtype=torch.int32)
        told = self._channel.pull.receive(words, REPLY_TAG)
        self._under_way[chunk] = exchange
        self._expected.put((words, told))
        exchange.sent = self._channel.push.send(client._messages[chunk], PUSH_TAG)

    def _take_answers(self) -> None:
        while (expected := self._expected.get()) is not None:
            words, told = expected
            wait(told, self._client._timeout)
            chunk, version, staleness = words.tolist()
            exchange = self._under_way.pop(chunk)
            assert exchange.received is not None
            wait(exchange.received, self._client._timeout)
            for transfer in (exchange.push, exchange.pull):
                if transfer:
                    transfer.done()  # the answer to a push may be here before its thread looks again
            self._client.arrived(chunk, exchange.step, version, staleness)
