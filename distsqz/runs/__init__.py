"""Run directories: written while a run goes on, readable at any moment.

`run.json` says what was run and how it ended. Beside it stands a folder a table, whose Parquet files are its
parts. Every file is written under another name and renamed, so that a reader never meets half of one, however
the writer ends.
"""

from distsqz.runs.arrow import arrow_schema
from distsqz.runs.environment import Environment, environment
from distsqz.runs.listing import newest_run, runs_under
from distsqz.runs.reader import Run
from distsqz.runs.writer import COMPLETE, FAILED, INTERRUPTED, RUNNING, RunWriter

__all__ = [
    "COMPLETE",
    "FAILED",
    "INTERRUPTED",
    "RUNNING",
    "Environment",
    "Run",
    "RunWriter",
    "arrow_schema",
    "environment",
    "newest_run",
    "runs_under",
]
