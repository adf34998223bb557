"""The records that a worker makes, and with them the tables of a run directory.

A table has a column for each field of its record, in this order; `X | None` is a nullable column, and None
says that a figure could not be read (never zero). `steps` has the columns of all instruments besides. Times
named `t_..._ns` are nanoseconds since the Unix epoch, from a clock that is monotonic within one process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from distsqz.metering.registry import INSTRUMENTS
from distsqz.metering.tcp import TcpColumns
from distsqz.metering.transfers import Traffic
from distsqz.runs.columns import Column, Row, Tables, Value, column, columns_of, values_of


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord(Row):
    """One optimizer update on one rank: where its wall time went, and what every instrument read."""

    cell: str = column("Name of the cell.")
    model: str = column("Name of the model.")
    strategy: str = column("How the replicas agree: ddp or ps.")
    world_size: int = column("Ranks of the cell.")
    rank: int = column("Rank of the worker.")
    host: str = column("Host of the worker.")
    attempt: int = column("0 for the first try of a run; one more each time its workers were started again.")
    step: int = column("Number of the update, from 0 within a cell, warm-up steps included.")
    warmup: bool = column("True for the steps before measuring begins; reports leave them out.")
    t_start_ns: int = column("Start of the step, since the Unix epoch.", unit="nanoseconds")
    wall_s: float = column("Time from the start of the step to its end.", unit="seconds")
    data_s: float = column("Time to get the step's images.", unit="seconds")
    forward_s: float = column("Time of the forward pass, without waiting for parameters.", unit="seconds")
    backward_s: float = column(
        "Time from the start of the backward pass until this rank's own gradients are ready.", unit="seconds"
    )
    exposed_comm_s: float | None = column(
        "Time from the moment this rank's own gradients are ready until the synchronised ones are back; "
        "with a parameter server, waits for parameters in the forward pass and at the end of a block. It "
        "includes waiting for ranks that are late.",
        unit="seconds",
    )
    optimizer_s: float = column("Time of the optimizer's update.", unit="seconds")
    other_s: float = column(
        "What is left of wall_s: next to nothing; with a parameter server, what was done between two steps "
        "while transfers were under way.",
        unit="seconds",
    )
    samples: int = column("Images that this rank trained on.", unit="images")
    loss: float = column("Mean cross-entropy of this rank's images, before the update.")
    staleness: int | None = column(
        "Updates by others between reading the parameters and applying this update; 0 when synchronous.",
        unit="updates",
    )
    readings: Mapping[str, Value]
    """The instruments' columns: a value for each name in `READINGS`."""

    def __getattr__(self, name: str) -> Any:
        """A reading is an attribute like every other column: `record.tcp_tx_bytes`."""
        if name != "readings" and name in self.readings:  # pickle asks before there are any
            return self.readings[name]
        raise AttributeError(f"{type(self).__name__} has no column {name!r}")

    def values(self) -> dict[str, Value]:
        """The values of all columns of `steps`."""
        return {**values_of(self), **self.readings}


_READ: tuple[type[Any], ...] = (Traffic, TcpColumns, *(instrument.columns for instrument in INSTRUMENTS))


def readings_of(records: Iterable[type[Any]]) -> dict[str, Column]:
    """The columns that instruments declare, by name; each may be null, as an instrument may be missing.

    Raises:
        ValueError: two instruments declare a column of the same name.
    """
    columns: dict[str, Column] = {}
    for record in records:
        for each in columns_of(record):
            if each.name in columns:
                raise ValueError(f"{record.__name__}: column {each.name} is another instrument's; rename it")
            columns[each.name] = replace(each, nullable=True)
    return columns


READINGS: Mapping[str, Column] = readings_of(_READ)
"""The columns of `steps` that instruments fill, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRecord(Row):
    """One collective, push or pull of one bucket."""

    cell: str = column("Name of the cell.")
    rank: int = column("Rank of the worker.")
    step: int = column("Number of the update that the transfer belongs to.")
    op: str = column("Kind of transfer: all_reduce, push or pull.")
    bucket: int = column(
        "Number of the bucket or chunk: in the order of the backward pass where it is all-reduced, in that "
        "of the forward pass where it is pushed or pulled."
    )
    peer: str | None = column("The other end of a push or pull, such as `shard 0`; null for a collective.")
    payload_bytes: int = column("Payload handed to the communication layer.", unit="bytes")
    t_launch_ns: int = column("When the payload left, since the Unix epoch.", unit="nanoseconds")
    t_done_ns: int | None = column(
        "When the transfer was back, since the Unix epoch. Null where the backend gives no such time (NCCL "
        "runs on the device's own).",
        unit="nanoseconds",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRecord(Row):
    """TCP between one rank and one of its peers during one step, summed over their connections."""

    cell: str = column("Name of the cell.")
    rank: int = column("Rank of the worker.")
    step: int = column("Number of the update.")
    peer: str = column("The peer's address; for a shard its name, such as `shard 0`.")
    peer_rank: int | None = column("Rank of the peer; null for a shard of a parameter server.")
    same_host: bool | None = column(
        "True where the peer is on the same host in a session of several hosts, so that its bytes cross no "
        "link."
    )
    tx_bytes: int = column("Payload written to the connections, each byte once.", unit="bytes")
    rx_bytes: int = column("Payload that the kernel received on the connections.", unit="bytes")
    retrans_bytes: int | None = column(
        "Payload that was on the wire more than once. Null where the host's own queue dropped packets "
        "meanwhile, or cannot be read.",
        unit="bytes",
    )
    rtt_us: int = column(
        "The kernel's smoothed round-trip time of the slowest connection.", unit="microseconds"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRecord(Row):
    """Accuracy and mean loss over the whole validation set, with what it had cost to get there."""

    cell: str = column("Name of the cell.")
    step: int = column("Optimizer updates made so far.", unit="updates")
    samples_seen: int = column("Images that all ranks have trained on so far.", unit="images")
    bytes_so_far: int | None = column(
        "TCP payload that all ranks and servers sent to other hosts in the training steps so far.",
        unit="bytes",
    )
    accuracy: float = column("Top-1 accuracy, between 0 and 1.")
    loss: float = column("Mean cross-entropy.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRecord(Row):
    """What one path between two hosts carried before training began: a TCP stream, with no other traffic."""

    rank: int = column("First rank of the sending host.")
    host: str = column("Sending host.")
    peer_rank: int = column("First rank of the receiving host.")
    peer_host: str = column("Receiving host.")
    goodput_bytes_per_s: float = column(
        "TCP payload received a second, once the stream had reached its rate.", unit="bytes/s"
    )
    rtt_us: int = column(
        "Median time of one byte there and back between the two programs.", unit="microseconds"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRecord(Row):
    """What a shard of a parameter server did with one push: the gradients of one chunk from one worker."""

    cell: str = column("Name of the cell.")
    shard: int = column("Number of the shard.")
    host: str = column("Host of the shard.")
    rank: int = column("Rank of the worker.")
    step: int | None = column("The worker's step that the gradients are from.")
    version: int = column("Updates of the chunk that the worker knew of.", unit="updates")
    attempt: int = column("How often servers and workers together had been started before.")
    bucket: int = column("Number of the chunk.")
    staleness: int = column(
        "Updates by others between the worker's reading the parameters and this update.", unit="updates"
    )
    dropped: bool = column("True where the push came too late to be counted.")
    t_arrive_ns: int = column("When the push arrived, since the Unix epoch.", unit="nanoseconds")
    queue_wait_s: float = column(
        "Time from the arrival until the shard began to work on the push.", unit="seconds"
    )
    service_s: float = column(
        "Time to add the gradients and, where they were the last, to update the parameters.", unit="seconds"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShipmentRecord(Row):
    """One file that arrived at one client, whole and checked."""

    cell: str = column("Name of the cell.")
    model: str = column("Name of the model or file.")
    client: int = column("Number of the client.")
    host: str = column("Host of the client.")
    file_bytes: int = column(
        "Size of the file that was sent; where an update was sent, of the update.", unit="bytes"
    )
    t_start_ns: int = column("When the client asked for the file, since the Unix epoch.", unit="nanoseconds")
    transfer_s: float = column(
        "Time from the client's request to its last byte, the check of its hash included.", unit="seconds"
    )
    rebuild_s: float | None = column(
        "Time to make the new file from the old one and its update; null for a whole file.", unit="seconds"
    )
    resumed: int = column("How often the transfer went on at the byte where a connection had broken.")
    resent: int = column(
        "How often the file was sent again from its beginning because its hash did not agree."
    )
    tcp_rx_bytes: int = column(
        "Payload that the client's kernel received on its connections to the sender, headers of the protocol "
        "included.",
        unit="bytes",
    )
    tcp_retrans_bytes: int | None = column(
        "Payload that was on the wire more than once. Null where the queue of the sender's interface dropped "
        "packets meanwhile, or cannot be read.",
        unit="bytes",
    )
    wire_rx_bytes: int | None = column(
        "Bytes of frames that arrived through the queue that shapes the link of the client's emulated host "
        "during the transfer, of every process on the host. Null without such a queue, or where several "
        "clients share it.",
        unit="bytes",
    )
    wire_tx_bytes: int | None = column(
        "Bytes of frames that left through that queue during the transfer: acknowledgements, mostly.",
        unit="bytes",
    )
    wire_rx_packets: int | None = column("Frames that arrived through that queue.", unit="frames")
    wire_tx_packets: int | None = column("Frames that left through that queue.", unit="frames")


Record = (
    StepRecord | TransferRecord | PeerRecord | EvaluationRecord | LinkRecord | UpdateRecord | ShipmentRecord
)

RECORDS: dict[str, type[Record]] = {
    "steps": StepRecord,
    "transfers": TransferRecord,
    "peers": PeerRecord,
    "evaluations": EvaluationRecord,
    "links": LinkRecord,
    "updates": UpdateRecord,
    "shipments": ShipmentRecord,
}
"""Table name -> the record that makes its rows."""

TABLES: Tables = {
    name: (*columns_of(record), *(READINGS.values() if record is StepRecord else ()))
    for name, record in RECORDS.items()
}
"""Table name -> its columns, in their order; `steps` has those of all instruments besides."""
