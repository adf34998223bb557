"""Options of a session, apart from Ray and torch, so that a command line is read before either loads."""

from __future__ import annotations

from dataclasses import dataclass, field

from distsqz.errors import require_at_least
from distsqz.metering.wire import emulated_hosts

EMBEDDED = "local"
"""The address that asks for a Ray of the run's own."""
REPORTING_RESERVE_S = 5
"""Part of the collective timeout, in seconds, that is reserved for reporting why a collective did not end."""


def default_workers() -> int:
    """The default number of workers: the number of hosts of the lab that this process is in, otherwise 2."""
    return len(emulated_hosts() or ()) or 2


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """Workers of a session, and the Ray that they run on."""

    workers: int = field(default_factory=default_workers)
    """Number of data-parallel workers. By default one on each host of a lab, otherwise 2."""
    address: str | None = None
    """HOST:PORT of the Ray to join (also RAY_ADDRESS). By default a Ray that `ray start` started on this host
    is joined; if there is none, a Ray is started for the run. local: always start one."""
    gpus: bool = False
    """Train on GPUs: each worker has one GPU and communicates over NCCL instead of Gloo."""
    restarts: int | None = None
    """How often workers and servers that die are started again: one by one where the others can go on
    without them, else all, from the newest checkpoint or from the beginning. By default 3 where checkpoints
    are saved or all cells have a parameter server, else 0."""
    collective_timeout_s: int = 60
    """Seconds after which a collective, push or pull that has not ended counts as failed."""

    def __post_init__(self) -> None:
        """Raises InvalidValue for a value out of range."""
        require_at_least(self, {"workers": 1, "restarts": 0, "collective_timeout_s": 2 * REPORTING_RESERVE_S})
