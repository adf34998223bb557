"""distsqz measures what communication costs in distributed training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distsqz.runs.reader import Run

__all__ = ["__version__", "open_run"]

__version__: str
"""Version of the installed distsqz, such as 0.1.0."""

# A thread that still asks Ray for something while Ray is being stopped would start another one.
# Read when Ray is imported.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")

# Ray cannot be imported where a user has no home at all. Docker gives such users this one.
if os.path.expanduser("~") == "~":  # noqa: PTH111 - Path's own raises
    os.environ["HOME"] = "/"


def open_run(path: str | Path) -> Run:
    """Open a run directory, also of a run that is still going.

    `run.table("steps").to_pandas()` is a data frame; docs/design.md names the tables and their columns.

    Raises:
        RequestError: there is no run, or it is damaged.
    """
    from distsqz.metering.schema import TABLES  # importing distsqz alone stays quick
    from distsqz.runs.reader import Run

    return Run(Path(path), TABLES)


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module 'distsqz' has no attribute {name!r}")
    from importlib import metadata  # takes as long as all the rest

    return metadata.version("distsqz")
