"""A deployment as its driver sees it: files served from here, clients that fetch them, a record of each."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from distsqz.cell_facts import ShipmentFacts, ShipmentTraffic
from distsqz.cluster.clients import Client, start_clients
from distsqz.cluster.hosts import emulated_rates_by_host, this_host
from distsqz.cluster.interfaces import LOOPBACK, interface_of
from distsqz.cluster.ray_cluster import ray_cluster
from distsqz.cluster.session import Recorder
from distsqz.errors import RequestError, RunError
from distsqz.interrupts import noted_interrupts
from distsqz.metering.cores import cores_of_this_machine
from distsqz.metering.queue import QueueMeter, retransmitted_bytes
from distsqz.metering.schema import ShipmentRecord
from distsqz.metering.wire import WireMeter
from distsqz.shipping.cargo import Cargo
from distsqz.shipping.protocol import Order
from distsqz.shipping.receiver import Reception
from distsqz.shipping.sender import Sender
from distsqz.shipping.store import Arrival, Parcel

POLL_S = 0.5
MOST_CLIENTS = 256


@dataclass(frozen=True, kw_only=True)
class DeploymentOptions:
    """Where files are sent to."""

    clients: int = 8
    """That each get a copy; in a lab, each on a host of its own."""
    address: str | None = None
    """HOST:PORT of a Ray to join (also RAY_ADDRESS); by default the one that `ray start` began on this host,
    if any, else one is started and stopped again; local: always that."""
    patience_s: float = 60.0
    """Seconds without a byte after which a client is given up; until then it tries again."""

    def __post_init__(self) -> None:
        """Raises RequestError for a value out of range."""
        if not 1 <= self.clients <= MOST_CLIENTS:
            raise RequestError(f"--clients {self.clients}: 1 to {MOST_CLIENTS}")
        if not self.patience_s > 0:
            raise RequestError(f"--patience-s {self.patience_s}: must be more than 0")


class Watch(Protocol):
    """Shows how far a shipment is."""

    def __call__(self, cell: str, sent_bytes: int, arrived: int) -> None:
        """Called now and then with what the head has sent and how many clients are done."""


def describe(cargo: Cargo, clients: int) -> dict[str, Any]:
    """A shipment's entry in run.json."""
    return {
        "cell": cargo.name,
        "kind": "shipment",
        "model": cargo.name,
        "form": cargo.form,
        "file_bytes": cargo.size_bytes,
        "sha256": cargo.sha256.hex(),
        "base_sha256": cargo.base_sha256.hex() if cargo.base_sha256 else None,
        "result_sha256": cargo.result_sha256.hex() if cargo.result_sha256 else None,
        "clients": clients,
    }


def run_deployment(
    cargos: Sequence[Cargo], options: DeploymentOptions, recorder: Recorder, watch: Watch
) -> None:
    """Sends each file in turn, to all clients at once.

    Raises:
        RequestError: the Ray cannot be had.
        RunError: a client died, or could not get a file; names its host.
    """
    with (
        ray_cluster(options.address, 0, gpus=False),
        recorder,  # how it ended is written before Ray goes, which may take this process along
        noted_interrupts() as interrupted,
        contextlib.ExitStack() as ending,
    ):
        clients = start_clients(options.clients)
        ending.callback(_end, clients)
        sender = ending.enter_context(Sender(ray.util.get_node_ip_address()))
        for position, cargo in enumerate(cargos):
            needed = frozenset(later.base_sha256 for later in cargos[position + 1 :] if later.base_sha256)
            shipment = _Shipment(cargo, needed, sender, clients, options.patience_s)
            shipment.run(recorder, watch, interrupted)
            if interrupted.is_set():
                raise KeyboardInterrupt


class _Shipment:
    """One file on its way to all clients."""

    def __init__(
        self,
        cargo: Cargo,
        needed: frozenset[bytes],
        sender: Sender,
        clients: Sequence[Client],
        patience_s: float,
    ) -> None:
        self._cargo = cargo
        self._sender = sender
        self._clients = clients
        self._patience_s = patience_s
        self._dropped_packets: int | None = 0
        """Packets that the head's queue has dropped so far; None where that is unknown."""
        self._parcel = Parcel(
            order=Order(address=sender.address, sha256=cargo.sha256, size_bytes=cargo.size_bytes),
            base_sha256=cargo.base_sha256,
            keep=needed,
        )

    def run(self, recorder: Recorder, watch: Watch, interrupted: threading.Event) -> None:
        """Returns when every client has it, or at an interrupt."""
        cell = self._cargo.name
        rates = emulated_rates_by_host()
        facts = ShipmentFacts(
            head_host=this_host(),
            hosts=[client.host for client in self._clients],
            emulated=rates is not None,
            machine_cores=cores_of_this_machine(),
            emulated_rate_bits_per_s=rates,
            congestion_control=self._sender.congestion_control,
        )
        recorder.describe_cell(cell, facts.as_entry())
        interface = self._interface()
        queue = QueueMeter(interface) if interface else None
        wire = WireMeter.of_this_host()
        wire_before = wire.read() if wire else None
        sent_before = self._sender.tx_bytes()
        self._sender.offer(self._cargo.sha256, self._cargo.file, self._cargo.size_bytes)
        under_way = {
            client.actor.take.remote(self._parcel, self._patience_s): client for client in self._clients
        }
        while under_way and not interrupted.is_set():
            done, _ = ray.wait(list(under_way), timeout=POLL_S)
            for reference in done:
                client = under_way.pop(reference)
                arrival = _arrival(reference, client)
                recorder.append("shipments", [self._record(client, arrival, queue)])
            recorder.flush()
            arrived = len(self._clients) - len(under_way)
            watch(cell, self._sender.tx_bytes() - sent_before, arrived)
        if queue:
            queue.close()
        if wire and wire_before:
            traffic = ShipmentTraffic(head_wire_tx_bytes=wire.read().since(wire_before).tx_bytes)
            recorder.describe_cell(cell, traffic.as_entry())
            wire.close()

    def _interface(self) -> str | None:
        """The interface of the head that copies leave through."""
        if all(client.host == this_host() for client in self._clients):
            return LOOPBACK
        return interface_of(self._sender.address[0])

    def _retransmitted_bytes(self, reception: Reception, queue: QueueMeter | None) -> int | None:
        repeated_bytes = self._sender.repeated_bytes(reception.own_ends)
        dropped_packets = queue.take_dropped_packets() if queue else None
        if dropped_packets is None or self._dropped_packets is None:
            self._dropped_packets = None
        else:
            self._dropped_packets += dropped_packets
        if repeated_bytes is None:
            return None
        return retransmitted_bytes(repeated_bytes, self._dropped_packets)

    def _record(self, client: Client, arrival: Arrival, queue: QueueMeter | None) -> ShipmentRecord:
        reception, wire = arrival.reception, arrival.wire
        return ShipmentRecord(
            cell=self._cargo.name,
            model=self._cargo.name,
            client=client.index,
            host=client.host,
            file_bytes=self._cargo.size_bytes,
            t_start_ns=arrival.t_start_ns,
            transfer_s=arrival.transfer_s,
            rebuild_s=arrival.rebuild_s,
            resumed=reception.resumed,
            resent=reception.resent,
            tcp_rx_bytes=reception.tcp_rx_bytes,
            tcp_retrans_bytes=self._retransmitted_bytes(reception, queue),
            wire_rx_bytes=wire.rx_bytes if wire else None,
            wire_tx_bytes=wire.tx_bytes if wire else None,
            wire_rx_packets=wire.rx_packets if wire else None,
            wire_tx_packets=wire.tx_packets if wire else None,
        )


def _arrival(reference: Any, client: Client) -> Arrival:
    try:
        arrival: Arrival = ray.get(reference)
    except RayTaskError as error:
        cause = error.cause
        text = cause.text if isinstance(cause, RunError) else f"{type(cause).__name__}: {cause}"
        raise RunError(f"client {client.index}: {text}", host=client.host) from error
    except RayActorError as error:
        raise RunError(f"client {client.index} died", host=client.host) from error
    return arrival


def _end(clients: Sequence[Client]) -> None:
    for client in clients:
        with contextlib.suppress(RayError, ValueError):
            ray.kill(client.actor)
