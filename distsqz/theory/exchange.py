"""What one rank exchanges with each of its peers, and which of it crosses the links between hosts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from distsqz.theory.collectives import sends
from distsqz.theory.placement import LinkLoad, Placement, Process


@dataclass(frozen=True, slots=True)
class Exchange:
    """Payload between a rank and one other process, in bytes in each direction."""

    peer: Process
    tx_bytes: float = 0
    rx_bytes: float = 0
    """Whole numbers for one transfer, means for several."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """Bytes that a rank exchanges, by whether they cross a link between hosts or stay on its own."""

    tx_bytes: float = 0
    rx_bytes: float = 0
    local_tx_bytes: float = 0
    local_rx_bytes: float = 0


def of_collective(
    operation: str, payload_bytes: int, rank: int, world_size: int, root: int = 0
) -> Sequence[Exchange]:
    """What a rank exchanges with others in one collective; see `collectives.sends` for the arguments."""
    exchanges = []
    for send in sends(operation, payload_bytes, world_size, root):
        if send.origin == rank:
            exchanges.append(Exchange(send.destination, tx_bytes=send.payload_bytes))
        elif send.destination == rank:
            exchanges.append(Exchange(send.origin, rx_bytes=send.payload_bytes))
    return exchanges


def crossing(exchanges: Iterable[Exchange], rank: int, placement: Placement) -> Crossing:
    """Sums a rank's exchanges with peers on other hosts, and with those on its own."""
    tx_bytes = rx_bytes = local_tx_bytes = local_rx_bytes = 0.0
    for each in exchanges:
        if placement.crosses(placement.host_of(rank), placement.host_of(each.peer)):
            tx_bytes += each.tx_bytes
            rx_bytes += each.rx_bytes
        else:
            local_tx_bytes += each.tx_bytes
            local_rx_bytes += each.rx_bytes
    return Crossing(tx_bytes, rx_bytes, local_tx_bytes, local_rx_bytes)


def load_by_host(by_rank: Mapping[int, Iterable[Exchange]], placement: Placement) -> dict[str, LinkLoad]:
    """Load of each host's link, in bytes of payload in each direction.

    Args:
        by_rank: what every rank exchanges with its peers. Shards exchange with ranks only, so that their part
            follows from it.
        placement: the hosts of the processes.
    """
    sums = {host: [0.0, 0.0] for host in (*placement.shards, *placement.workers)}
    for rank, exchanges in by_rank.items():
        host = placement.host_of(rank)
        for each in exchanges:
            of_peer = placement.host_of(each.peer)
            if placement.crosses(host, of_peer):
                sums[host][0] += each.tx_bytes
                sums[host][1] += each.rx_bytes
                if isinstance(each.peer, str):
                    sums[of_peer][0] += each.rx_bytes
                    sums[of_peer][1] += each.tx_bytes
    return {host: LinkLoad(round(tx_bytes), round(rx_bytes)) for host, (tx_bytes, rx_bytes) in sums.items()}
