"""Options of a parameter server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from distsqz.errors import InvalidValue, require_at_least
from distsqz.runs.cell_spec import rules
from distsqz.strategies.parameter_server.consistency import Consistency, Mode

Placement = Literal["colocated", "dedicated"]

SERVERS_START_ONCE = "the cells of a session share their servers, which are started once"
WHERE_SHARDS_ARE = "a checkpoint holds whole parameters, wherever their shards were"


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Options of a parameter server."""

    servers: int | None = field(
        default=None,
        metadata=rules(shared=SERVERS_START_ONCE, not_resumed=WHERE_SHARDS_ARE),
    )
    """Number of shards over which parameters are split; by default one for each host of workers, or 1 if
    dedicated."""
    placement: Placement = field(
        default="colocated",
        metadata=rules(label="", shared=SERVERS_START_ONCE, not_resumed=WHERE_SHARDS_ARE),
    )
    """colocated: shards on the workers' hosts; dedicated: on hosts of their own, if there are several."""
    consistency: Mode = field(default="sync", metadata=rules(label=""))
    """sync: one update from all gradients; async: one from each, at once; ssp: the same, but no worker
    runs further ahead of the slowest than the staleness allows."""
    staleness: int = 0
    """For ssp: number of steps by which a worker may be ahead of the slowest."""
    backup_workers: int = field(default=0, metadata=rules(label="backup"))
    """For sync: number of gradients that an update does not wait for; they are dropped when they arrive."""

    def __post_init__(self) -> None:
        """Checks the values; raises InvalidValue for one out of range."""
        require_at_least(self, {"servers": 1, "staleness": 0, "backup_workers": 0})
        if self.staleness and self.consistency != "ssp":
            raise InvalidValue("staleness", self.staleness, "is for `consistency=ssp`")
        if self.backup_workers and self.consistency != "sync":
            raise InvalidValue("backup_workers", self.backup_workers, "is for `consistency=sync`")

    @property
    def shards(self) -> int:
        """Number of servers. It must have been set."""
        assert self.servers is not None
        return self.servers

    @property
    def agreement(self) -> Consistency:
        """The consistency that the shards guarantee."""
        return Consistency(
            mode=self.consistency, staleness=self.staleness, backup_workers=self.backup_workers
        )

    def check(self, workers: int) -> None:
        """Raises InvalidValue if the options do not suit this number of workers."""
        if self.backup_workers >= workers:
            raise InvalidValue(
                "backup_workers",
                self.backup_workers,
                f"must be below `workers={workers}`, or no gradient would count",
            )
