"""Options of all-reduce."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from distsqz.errors import InvalidValue
from distsqz.runs.cell_spec import SAME_VALUES, rules


@dataclass(frozen=True, kw_only=True)
class AllReduceOptions:
    """Options of all-reduce."""

    bucket_mb: float | None = field(
        default=None,
        metadata=rules(label="bucket", not_resumed=SAME_VALUES),
    )
    """Size of a bucket of gradients in MiB; by default DDP's own, 1 for the first bucket and
    25 for the others."""
    find_unused_parameters: bool = field(
        default=False,
        metadata=rules(label="unused", not_resumed=SAME_VALUES),
    )
    """Train models with parameters that get no gradient in a step. DDP then sends 4 more
    bytes for each parameter tensor in a step. A parameter server always trains such models."""

    def __post_init__(self) -> None:
        """Checks the values; raises InvalidValue for one out of range."""
        if self.bucket_mb is not None and not 0 < self.bucket_mb < math.inf:
            raise InvalidValue("bucket_mb", self.bucket_mb, "must be a number above 0")
