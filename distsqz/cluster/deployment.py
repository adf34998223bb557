"""A deployment on the driver: serves files, starts clients that fetch them, and records each fetch."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from distsqz.cluster.clients import Client, start_clients
from distsqz.cluster.hosts import emulated_rates_by_host, this_host
from distsqz.cluster.interfaces import LOOPBACK, interface_of
from distsqz.cluster.ray_cluster import ray_cluster
from distsqz.cluster.session import Recorder
from distsqz.errors import InvalidValue, RunError
from distsqz.interrupts import noted_interrupts
from distsqz.metering.queue import QueueMeter, retransmitted_bytes
from distsqz.metering.schema import ShipmentRecord
from distsqz.metering.wire import WireMeter
from distsqz.runs.cell_facts import ShipmentFacts, ShipmentTraffic
from distsqz.runs.cores import cores_of_this_machine
from distsqz.shipping.files import ShippedFile
from distsqz.shipping.protocol import FileLocation
from distsqz.shipping.receiver import ReceiveResult
from distsqz.shipping.sender import Sender
from distsqz.shipping.store import FetchResult, FetchTask

POLL_S = 0.5
MOST_CLIENTS = 256


@dataclass(frozen=True, kw_only=True)
class DeploymentOptions:
    """Clients that receive the files."""

    clients: int = 8
    """Number of clients that receive a copy. In a lab every client runs on its own host."""
    address: str | None = None
    """HOST:PORT of the Ray to join (also RAY_ADDRESS). By default a Ray that `ray start` started on this host
    is joined; if there is none, a Ray is started for the run. local: always start one."""
    patience_s: float = 60.0
    """Seconds without a received byte after which a client fails. Until then it reconnects and resumes."""

    def __post_init__(self) -> None:
        """Raises InvalidValue for a value out of range."""
        if not 1 <= self.clients <= MOST_CLIENTS:
            raise InvalidValue("clients", self.clients, f"1 to {MOST_CLIENTS}")
        if not self.patience_s > 0:
            raise InvalidValue("patience_s", self.patience_s, "must be more than 0")


class Watch(Protocol):
    """Shows the progress of a shipment."""

    def __call__(self, cell: str, sent_bytes: int, arrived: int) -> None:
        """Called repeatedly with the TCP payload sent by the head and the number of clients that are done."""


def describe(shipped: ShippedFile, clients: int) -> dict[str, Any]:
    """The entry of a shipment in run.json."""
    return {
        "cell": shipped.name,
        "kind": "shipment",
        "model": shipped.name,
        "form": shipped.form,
        "file_bytes": shipped.size_bytes,
        "sha256": shipped.sha256.hex(),
        "base_sha256": shipped.base_sha256.hex() if shipped.base_sha256 else None,
        "result_sha256": shipped.result_sha256.hex() if shipped.result_sha256 else None,
        "clients": clients,
    }


def run_deployment(
    shipped_files: Sequence[ShippedFile], options: DeploymentOptions, recorder: Recorder, watch: Watch
) -> None:
    """Sends files one after the other, each to all clients at the same time.

    Args:
        shipped_files: the files.
        options: the clients and the Ray that they run on.
        recorder: receives facts and records.
        watch: shows progress.

    Raises:
        RequestError: Ray cannot be joined or started.
        RunError: a client died or could not fetch a file; the error names its host.
    """
    with (
        ray_cluster(options.address, 0, gpus=False),
        recorder,  # the outcome is written before Ray stops, which may end this process too
        noted_interrupts() as interrupted,
        contextlib.ExitStack() as ending,
    ):
        clients = start_clients(options.clients)
        ending.callback(_end, clients)
        sender = ending.enter_context(Sender(ray.util.get_node_ip_address()))
        for position, shipped in enumerate(shipped_files):
            needed = frozenset(
                later.base_sha256 for later in shipped_files[position + 1 :] if later.base_sha256
            )
            shipment = _Shipment(shipped, needed, sender, clients, options.patience_s)
            shipment.run(recorder, watch, interrupted)
            if interrupted.is_set():
                raise KeyboardInterrupt


class _Shipment:
    """The transfer of one file to all clients."""

    def __init__(
        self,
        shipped: ShippedFile,
        needed: frozenset[bytes],
        sender: Sender,
        clients: Sequence[Client],
        patience_s: float,
    ) -> None:
        self._shipped = shipped
        self._sender = sender
        self._clients = clients
        self._patience_s = patience_s
        self._dropped_packets: int | None = 0
        """Packets that the head's queue has dropped so far; None if unknown."""
        self._task = FetchTask(
            location=FileLocation(
                address=sender.address, sha256=shipped.sha256, size_bytes=shipped.size_bytes
            ),
            base_sha256=shipped.base_sha256,
            keep=needed,
        )

    def run(self, recorder: Recorder, watch: Watch, interrupted: threading.Event) -> None:
        """Returns when every client has the file, or when `interrupted` is set."""
        cell = self._shipped.name
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
        self._sender.offer(self._shipped.sha256, self._shipped.file, self._shipped.size_bytes)
        under_way = {
            client.actor.take.remote(self._task, self._patience_s): client for client in self._clients
        }
        while under_way and not interrupted.is_set():
            done, _ = ray.wait(list(under_way), timeout=POLL_S)
            for reference in done:
                client = under_way.pop(reference)
                result = _fetch_result(reference, client)
                recorder.append("shipments", [self._record(client, result, queue)])
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
        """The network interface of the head that the copies leave through."""
        if all(client.host == this_host() for client in self._clients):
            return LOOPBACK
        return interface_of(self._sender.address[0])

    def _retransmitted_bytes(self, received: ReceiveResult, queue: QueueMeter | None) -> int | None:
        repeated_bytes = self._sender.repeated_bytes(received.own_ends)
        dropped_packets = queue.take_dropped_packets() if queue else None
        if dropped_packets is None or self._dropped_packets is None:
            self._dropped_packets = None
        else:
            self._dropped_packets += dropped_packets
        if repeated_bytes is None:
            return None
        return retransmitted_bytes(repeated_bytes, self._dropped_packets)

    def _record(self, client: Client, result: FetchResult, queue: QueueMeter | None) -> ShipmentRecord:
        received, wire = result.received, result.wire
        return ShipmentRecord(
            cell=self._shipped.name,
            model=self._shipped.name,
            client=client.index,
            host=client.host,
            file_bytes=self._shipped.size_bytes,
            t_start_ns=result.t_start_ns,
            transfer_s=result.transfer_s,
            rebuild_s=result.rebuild_s,
            resumed=received.resumed,
            resent=received.resent,
            tcp_rx_bytes=received.tcp_rx_bytes,
            tcp_retrans_bytes=self._retransmitted_bytes(received, queue),
            wire_rx_bytes=wire.rx_bytes if wire else None,
            wire_tx_bytes=wire.tx_bytes if wire else None,
            wire_rx_packets=wire.rx_packets if wire else None,
            wire_tx_packets=wire.tx_packets if wire else None,
        )


def _fetch_result(reference: Any, client: Client) -> FetchResult:
    try:
        result: FetchResult = ray.get(reference)
    except RayTaskError as error:
        cause = error.cause
        text = cause.text if isinstance(cause, RunError) else f"{type(cause).__name__}: {cause}"
        raise RunError(f"client {client.index}: {text}", host=client.host) from error
    except RayActorError as error:
        raise RunError(f"client {client.index} died", host=client.host) from error
    return result


def _end(clients: Sequence[Client]) -> None:
    for client in clients:
        with contextlib.suppress(RayError, ValueError):
            ray.kill(client.actor)
