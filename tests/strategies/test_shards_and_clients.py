"""Workers and shards over real TCP, as threads of one process: what they compute, and what they promise."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from distsqz.metering.clock import HostClock
from distsqz.metering.schema import UpdateRecord
from distsqz.metering.transfers import Transfer, TransferLog
from distsqz.strategies.parameter_server.channel import WORKER_END, DuplexChannel, open_store
from distsqz.strategies.parameter_server.client import ServerClient
from distsqz.strategies.parameter_server.consistency import Consistency
from distsqz.strategies.parameter_server.flat import layout_of, to_rows, trained
from distsqz.strategies.parameter_server.shard import Shard, ShardSettings
from tests.ipv6 import needs_ipv6

HERE = "127.0.0.1"
LR, MOMENTUM, WEIGHT_DECAY = 0.05, 0.9, 1e-3
STEPS = 5
TIMEOUT_S = 120
"""How long a worker may wait for a shard, and a test for a worker: far longer than a busy machine takes."""
SYNC = Consistency()


def small_net() -> nn.Sequential:
    """Enough kinds of parameters: filters in channels_last, biases, a matrix."""
    torch.manual_seed(7)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.Flatten(), nn.Linear(6 * 36, 5))
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def batch(rank: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 * rank + step)
    return torch.randn(4, 3, 8, 8, generator=generator), torch.randint(5, (4,), generator=generator)


@dataclass
class Worker:
    """A worker's model and client, and what a test does before each of its steps."""

    rank: int
    model: nn.Module
    client: ServerClient
    log: TransferLog
    transfers: list[Transfer] = field(default_factory=list)
    began: list[float] = field(default_factory=list)
    staleness: list[int] = field(default_factory=list)

    def train(self, steps: int, workers: int, delay: Callable[[int], float]) -> None:
        for step in range(steps):
            time.sleep(delay(step))
            images, labels = batch(self.rank, step)
            self.log.begin(step)
            self.client.begin(step, LR)
            loss = F.cross_entropy(self.client.model(images), labels)
            self.began.append(time.monotonic())
            (loss / workers).backward()
            self.client.finish(wait_for_answers=step + 1 == steps)
            self.transfers += self.log.take_launched()[1]
        known = [self.client.staleness(step) for step in range(steps)]
        self.staleness = [each for each in known if each is not None]


@dataclass
class Service:
    """The shards of a test, and the workers that have come to them."""

    shards: list[Shard]
    workers: list[Worker]
    records: list[UpdateRecord]


@contextmanager
def service(
    workers: int,
    servers: int,
    consistency: Consistency = SYNC,
    model: Callable[[], nn.Module] = small_net,
    address: str = HERE,
) -> Iterator[Service]:
    layout = layout_of(model(), servers, workers)
    asked = ShardSettings(
        cell="c", workers=workers, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, consistency=consistency
    )
    records: list[UpdateRecord] = []
    parameters = trained(model())
    shards = [
        Shard(
            index,
            to_rows(parameters, layout, layout.owned_by(index)),
            layout,
            asked,
            "h",
            report=records.append,
        )
        for index in range(servers)
    ]
    stores = [open_store(address) for _ in shards]
    made: list[Worker] = []
    try:
        for rank in range(workers):
            name = f"c/{rank}"
            for shard, (store, _) in zip(shards, stores, strict=True):
                threading.Thread(target=shard.admit, args=(rank, store, name, address)).start()
            channels = [
                DuplexChannel.connect(place.connect(), name, WORKER_END, address) for _, place in stores
            ]
            log, replica = TransferLog(HostClock()), model()
            client = ServerClient(replica, layout, channels, consistency, 0, log, TIMEOUT_S)
            made.append(Worker(rank, replica, client, log))
        wait_until_admitted(shards, workers)
        yield Service(shards, made, records)
    finally:
        for worker in made:
            worker.client.close()
        for shard in shards:
            shard.close()


def wait_until_admitted(shards: Sequence[Shard], workers: int) -> None:
    end = time.monotonic() + TIMEOUT_S
    while any(len(shard.workers) < workers for shard in shards):
        assert time.monotonic() < end, f"{[len(shard.workers) for shard in shards]} of {workers} admitted"
        time.sleep(0.001)


def train(made: Service, steps: int = STEPS, delay: Callable[[int, int], float] = lambda _r, _s: 0.0) -> None:
    """All workers train at the same time; `delay` is asked by rank and step."""
    train_at_once(made.workers, len(made.workers), steps, delay)


def train_at_once(
    those: Sequence[Worker], workers: int, steps: int, delay: Callable[[int, int], float] = lambda _r, _s: 0.0
) -> None:
    """Some of so many workers train at the same time, the others not at all."""
    errors: list[Exception] = []

    def work(worker: Worker) -> None:
        try:
            worker.train(steps, workers, lambda step: delay(worker.rank, step))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in those]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert not errors, errors
    assert not any(thread.is_alive() for thread in threads)


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def trained_alone(
    workers: int, steps: int = STEPS, model_of: Callable[[], nn.Module] = small_net
) -> torch.Tensor:
    """The textbook loop on the joined batch."""
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), LR, MOMENTUM, weight_decay=WEIGHT_DECAY)
    for step in range(steps):
        images, labels = (
            torch.cat(parts) for parts in zip(*(batch(r, step) for r in range(workers)), strict=True)
        )
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return flat(model)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_sync_computes_what_one_process_does_on_the_joined_batch(workers: int) -> None:
    with service(workers, servers=2) as made:
        train(made)
        alone = trained_alone(workers)
        for worker in made.workers:
            assert torch.equal(flat(worker.model), flat(made.workers[0].model))
            difference = (flat(worker.model) - alone).norm() / alone.norm()
            assert difference < 1e-6


class Reader(nn.Module):
    """Reads a parameter of its net before the net's own modules do."""

    def __init__(self, net: nn.Sequential, read: Callable[[nn.Sequential], torch.Tensor]) -> None:
        super().__init__()
        self.net = net
        self.read = read

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(images * self.read(self.net).norm())
        return logits


def read_by_its_parent() -> nn.Module:
    return Reader(small_net(), lambda net: net[4].weight)


def read_out_of_a_list() -> nn.Module:
    net = small_net()
    held = [net[4].weight]
    return Reader(net, lambda _net: held[0])


def read_by_a_hook() -> nn.Module:
    net = small_net()
    net[0] = torch.nn.utils.weight_norm(net[0])
    return net


def read_by_a_hook_of_its_own() -> nn.Module:
    net = small_net()
    net[0].register_forward_pre_hook(lambda part, images: (images[0] * part.weight.norm(),))
    return net


@pytest.mark.parametrize(
    "model",
    [read_by_its_parent, read_out_of_a_list, read_by_a_hook, read_by_a_hook_of_its_own],
)
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_whoever_reads_a_parameter_reads_the_last_update(model: Callable[[], nn.Module]) -> None:
    with service(2, servers=2, model=model) as made:
        train(made, delay=lambda rank, _step: 0.05 * rank)  # answers to the first worker come late
        alone = trained_alone(2, model_of=model)
        for worker in made.workers:
            assert (flat(worker.model) - alone).norm() / alone.norm() < 1e-5


@needs_ipv6
def test_workers_and_shards_meet_over_ipv6() -> None:
    with service(2, servers=2, address="::1") as made:
        connections = made.workers[0].client._lanes[0]._channel.connections
        assert {connection.remote[0] for connection in connections} == {"::1"}
        train(made)
        alone = trained_alone(2)
        assert (flat(made.workers[0].model) - alone).norm() / alone.norm() < 1e-6


def test_sync_is_the_same_bit_by_bit_for_any_shards_and_any_order_of_arrival() -> None:
    found = []
    for servers, slow in ((1, 0), (2, 1), (4, 2), (1, 2)):
        with service(3, servers) as made:
            train(made, delay=lambda rank, _step, slow=slow: 0.01 * (rank == slow))  # type: ignore[misc]
            found.append(flat(made.workers[0].model))
    assert all(torch.equal(each, found[0]) for each in found)


def test_every_chunk_is_pushed_and_pulled_once_a_step_with_its_times() -> None:
    with service(2, servers=2) as made:
        train(made)
        payload = 4 * sum(parameter.numel() for parameter in small_net().parameters())
        for worker in made.workers:
            for op in ("push", "pull"):
                for step in range(STEPS):
                    those = [each for each in worker.transfers if (each.op, each.step) == (op, step)]
                    assert sum(each.payload_bytes for each in those) == payload
                    assert len({each.bucket for each in those}) == len(those)
            assert all(
                each.t_done_ns is not None and each.t_done_ns >= each.t_launch_ns for each in worker.transfers
            )
            assert worker.staleness == [0] * STEPS
    assert {record.shard for record in made.records} == {0, 1}
    assert all(record.queue_wait_s >= 0 and record.service_s > 0 for record in made.records)
    assert not any(record.dropped for record in made.records)


@settings(max_examples=6, deadline=None)
@given(
    delays=st.lists(st.lists(st.floats(0, 0.02), min_size=6, max_size=6), min_size=3, max_size=3),
    staleness=st.integers(0, 3),
)
def test_ssp_keeps_workers_together(delays: list[list[float]], staleness: int) -> None:
    with service(3, 2, Consistency(mode="ssp", staleness=staleness)) as made:
        train(made, steps=6, delay=lambda rank, step: delays[rank][step])
        assert widest_lead(made.workers) <= staleness


def widest_lead(workers: Sequence[Worker]) -> int:
    """The most steps that a worker which begins one has finished more than another has begun."""
    lead = 0
    for worker in workers:
        for step, at in enumerate(worker.began):
            # Who has begun step n has finished n steps.
            slowest = min(sum(each <= at for each in other.began) for other in workers)
            lead = max(lead, step - slowest)
    return lead


def test_async_waits_for_nobody_and_tells_how_stale_each_update_is() -> None:
    with service(3, 1, Consistency(mode="async")) as made:
        slow, *fast = made.workers
        train_at_once(fast, 3, steps=6)  # to their end, though the third has not begun
        slow.train(2, 3, lambda _step: 0.0)
        assert slow.staleness == [2 * 6, 0]
    assert sum(not record.dropped for record in made.records) == len(made.records)


def test_backup_workers_are_not_waited_for_and_what_comes_late_is_dropped() -> None:
    steps = 6
    with service(3, 1, Consistency(backup_workers=1)) as made:
        late, *fast = made.workers
        train_at_once(fast, 3, steps)  # to their end, though the third has not begun
        late.train(1, 3, lambda _step: 0.0)
        assert late.client.version == steps
        assert torch.equal(flat(late.model), flat(fast[0].model))
    assert {record.rank for record in made.records if record.dropped} == {0}


def test_a_parameter_without_a_gradient_stays_as_it_is() -> None:
    class Partial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(3)
            self.used = nn.Linear(3 * 64, 5)
            self.unused = nn.Linear(4, 4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.used(images.flatten(1))
            return logits

    with service(2, 1, model=Partial) as made:
        train(made, steps=2)
        before, after = Partial(), made.workers[0].model
        assert isinstance(after, Partial)
        assert not torch.equal(before.used.weight, after.used.weight)
        assert torch.equal(before.unused.weight, after.unused.weight)  # not even weight decay acts, as in SGD


def test_a_worker_that_is_lost_ends_a_sync_run_for_the_others_at_once() -> None:
    with service(2, 1) as made:
        made.workers[1].client._lanes[0]._channel.close()
        begin = time.monotonic()
        with pytest.raises(ConnectionError, match="shard 0"):
            made.workers[0].train(2, 2, lambda _step: 0.0)
        assert time.monotonic() - begin < TIMEOUT_S / 2  # it did not wait for an answer in vain


def test_a_worker_that_is_lost_does_not_stop_the_others_of_an_async_run() -> None:
    with service(2, 1, Consistency(mode="ssp", staleness=1)) as made:
        made.workers[1].client._lanes[0]._channel.close()
        made.workers[0].train(6, 2, lambda _step: 0.0)
        assert len(made.workers[0].staleness) == 6
