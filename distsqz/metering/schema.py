"""The records that a worker's meters make, and with them the tables of a run directory.

A table has a column for each field of its record, in this order; `X | None` is a nullable column, and None
says that a figure could not be read (never zero). Times named `t_..._ns` are nanoseconds since the Unix
epoch, taken from a clock that is monotonic within one process.
"""

from __future__ import annotations

from dataclasses import dataclass

SCHEMA_VERSION = 2
"""1: a table is one file. 2: a table is a folder of parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One optimizer update on one rank: where its wall time went and the views of its bytes."""

    cell: str
    model: str
    strategy: str
    world_size: int
    rank: int
    host: str
    attempt: int
    """0 for the first try of a run; one more each time its workers were started again."""
    step: int
    """Counts from 0 within a cell, warm-up steps included."""
    warmup: bool
    """True for the steps before measuring begins; reports leave them out."""
    t_start_ns: int
    wall_s: float
    data_s: float
    forward_s: float
    backward_s: float
    """From the start of the backward pass until this rank's own gradients are ready."""
    exposed_comm_s: float | None
    """From there until the synchronised gradients are back; with a parameter server, waits for parameters, in
    the forward pass and at the end of a block. Waiting for ranks that are late is in it."""
    optimizer_s: float
    other_s: float
    """What is left of wall_s: next to nothing; with a parameter server, what was done between two steps while
    transfers were under way."""
    sched_wait_s: float | None
    """Time that the training thread was runnable and had no core."""
    samples: int
    loss: float
    """Mean cross-entropy of this rank's images, before the update."""
    logical_tx_bytes: int | None
    """Payload handed to the communication layer."""
    logical_rx_bytes: int | None
    predicted_tx_bytes: int | None
    """What `distsqz.theory` says that this rank must send to other hosts for it. In a session of one host,
    loopback stands for the network and everything counts."""
    predicted_rx_bytes: int | None
    predicted_local_tx_bytes: int | None
    """What must be sent to processes on the same host, which crosses no link; 0 in a session of one host."""
    predicted_local_rx_bytes: int | None
    tcp_tx_bytes: int | None
    """Payload written to the sockets shared with ranks, or shards of a parameter server, on other hosts: each
    byte once, however often TCP sent it. In a session of one host everything counts."""
    tcp_rx_bytes: int | None
    """Payload that the kernel has received on them; a peer that is ahead may have sent some of its next
    step."""
    tcp_local_tx_bytes: int | None
    """Payload written to the sockets shared with processes on the same host; 0 in a session of one host."""
    tcp_local_rx_bytes: int | None
    tcp_retrans_bytes: int | None
    """Payload that was on the wire more than once. None where the host's own queue dropped packets meanwhile,
    or cannot be read: TCP counts an attempt that never left the host in the same way."""
    queue_dropped_packets: int | None
    """Packets that the queue of the host's interface dropped before they were on the wire, of every process
    on the host. Read where TCP had to repeat something, else 0."""
    nic_tx_bytes: int | None
    """Bytes through the interface, of everything on the host: ranks that share a host share this figure."""
    nic_rx_bytes: int | None
    wire_tx_bytes: int | None
    """Bytes of frames through the queue that shapes an emulated host's link: as nic_tx_bytes, but with the
    headers of every frame. None where the link is not emulated."""
    wire_rx_bytes: int | None
    wire_tx_packets: int | None
    wire_rx_packets: int | None
    staleness: int | None
    """Updates by others between reading the parameters and applying this update; 0 when synchronous."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRecord:
    """One collective, push or pull of one bucket."""

    cell: str
    rank: int
    step: int
    op: str
    """all_reduce, push or pull."""
    bucket: int
    """All-reduced: in the order of the backward pass; pushed and pulled: in that of the forward pass."""
    peer: str | None
    """The other end of a push or pull, such as `shard 0`; None for a collective."""
    payload_bytes: int
    t_launch_ns: int
    t_done_ns: int | None
    """None where the backend does not tell when it is done (NCCL runs on the device's own time)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRecord:
    """TCP between one rank and one of its peers during one step, summed over their connections."""

    cell: str
    rank: int
    step: int
    peer: str
    """The peer's address; of a shard, its name, such as `shard 0`."""
    peer_rank: int | None
    """None for a shard of a parameter server."""
    same_host: bool | None
    """True where the peer is on the same host in a session of several, so that its bytes cross no link."""
    tx_bytes: int
    rx_bytes: int
    retrans_bytes: int | None
    """Payload that was on the wire more than once; None as in `steps`."""
    rtt_us: int
    """The kernel's smoothed round-trip time, of the slowest connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRecord:
    """Accuracy and mean loss over the whole validation set, with what it had cost to get there."""

    cell: str
    step: int
    """Optimizer updates made so far."""
    samples_seen: int
    """Over all ranks."""
    bytes_so_far: int | None
    """TCP payload that all ranks and servers sent to other hosts in the training steps up to here."""
    accuracy: float
    """Top-1, between 0 and 1."""
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRecord:
    """What one path between two hosts carried before training began: a TCP stream, with no other traffic."""

    rank: int
    """The first of the sending host."""
    host: str
    peer_rank: int
    peer_host: str
    goodput_bytes_per_s: float
    """TCP payload received, once the stream had found its rate."""
    rtt_us: int
    """Of one byte there and back between the two programs: the median."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRecord:
    """What a shard of a parameter server did with one push: the gradients of one chunk from one worker."""

    cell: str
    shard: int
    host: str
    """Of the shard."""
    rank: int
    """Of the worker."""
    step: int | None
    """The worker's step that the gradients are from."""
    version: int
    """Updates of the chunk that the worker knew of."""
    attempt: int
    """How often servers and workers together had been started before."""
    bucket: int
    """The chunk."""
    staleness: int
    """Updates by others between the worker's reading the parameters and this update."""
    dropped: bool
    """It came too late to be counted."""
    t_arrive_ns: int
    queue_wait_s: float
    """From its arrival until the shard began to work on it."""
    service_s: float
    """Adding it and, where it was the last, updating the parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShipmentRecord:
    """One file that arrived at one client, whole and checked."""

    cell: str
    model: str
    client: int
    host: str
    file_bytes: int
    """Of the file that was sent; of an update, of the update."""
    t_start_ns: int
    transfer_s: float
    """From the client's request to its last byte, the check of its hash included."""
    rebuild_s: float | None
    """For making the new file of the old one and its update; None for a whole file."""
    resumed: int
    """How often it went on at the byte where a connection had broken."""
    resent: int
    """How often it was sent again from its beginning because its hash did not agree."""
    tcp_rx_bytes: int
    """Payload that the client's kernel received on its connections to the sender, its headers too."""
    tcp_retrans_bytes: int | None
    """Payload that was on the wire more than once. None where the queue of the sender's interface dropped
    packets meanwhile, or cannot be read."""
    wire_rx_bytes: int | None
    """Bytes of frames that came through the queue that shapes the link of the client's emulated host during
    the transfer, of everything on the host. None without such a queue, or where several clients share it."""
    wire_tx_bytes: int | None
    """The other way: acknowledgements, mostly."""
    wire_rx_packets: int | None
    wire_tx_packets: int | None


Record = (
    StepRecord | TransferRecord | PeerRecord | EvaluationRecord | LinkRecord | UpdateRecord | ShipmentRecord
)

TABLES: dict[str, type[Record]] = {
    "steps": StepRecord,
    "transfers": TransferRecord,
    "peers": PeerRecord,
    "evaluations": EvaluationRecord,
    "links": LinkRecord,
    "updates": UpdateRecord,
    "shipments": ShipmentRecord,
}
"""Table name -> the record that makes its rows."""
