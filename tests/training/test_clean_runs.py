"""Real sessions on loopback, of many shapes: the views of their bytes go together."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from group import Box, run_group

from distsqz import open_run
from distsqz.metering.schema import TABLES
from distsqz.report.tables import read_cells
from distsqz.runs.reader import Run
from distsqz.runs.writer import COMPLETE, RunWriter
from distsqz.strategies.all_reduce.options import AllReduceOptions
from distsqz.strategies.all_reduce.strategy import AllReduce
from distsqz.strategies.parameter_server.options import ServerOptions
from distsqz.strategies.parameter_server.strategy import ParameterServer
from distsqz.strategies.strategy import Strategy
from distsqz.training.options import TrainingOptions
from distsqz.training.plan import plan_session

RUNS = 50


def write_run(root: Path, entries: list[dict[str, Any]], boxes: list[Box]) -> Run:
    """Writes what a session's ranks recorded as a run directory, and opens it."""
    writer = RunWriter.create(root, "test", ["test"], {}, entries, tables=TABLES)
    for box in boxes:
        assert box.error is None
        for cell, facts in box.facts.items():
            writer.describe_cell(cell, facts)
        for table, rows in box.records.items():
            writer.append(table, rows)
    writer.finish(COMPLETE)
    return open_run(writer.path)


def random_session(seed: int) -> tuple[int, TrainingOptions, list[Strategy]]:
    """World size, options and strategies of a session; payloads are from 2 KB to 40 MB."""
    choose = random.Random(seed)
    world_size = choose.choice([1, 2, 2, 3])
    options = TrainingOptions(
        image_size=32,
        num_classes=round(10 ** choose.uniform(1, 5.5)),
        batch_size=2,
        steps=choose.randint(1, 12),
        block_steps=choose.randint(1, 4),
        warmup_steps=choose.randint(0, 2),
        metered=choose.random() < 0.9,
        evaluate="never",
        seed=seed,
    )
    mode = choose.choice(["sync", "sync", "async", "ssp"])
    bucketed = AllReduce(AllReduceOptions(bucket_mb=choose.choice([None, 1.0, 100.0])))
    options_of_server = ServerOptions(
        servers=choose.randint(1, 2),
        consistency=mode,
        staleness=1 if mode == "ssp" else 0,
        backup_workers=int(mode == "sync" and world_size > 1 and choose.random() < 0.3),
    )
    server = ParameterServer(options_of_server)
    return world_size, options, choose.choice([[bucketed, server], [bucketed], [server]])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(RUNS))
def test_a_clean_run_raises_no_warning(tmp_path: Path, seed: int) -> None:
    world_size, options, strategies = random_session(seed)
    plan, entries = plan_session(["small_models:small_net"], world_size, options, strategies)
    run = write_run(tmp_path / "runs", entries, run_group(plan, world_size, tmp_path))
    breaches = [breach.sentence() for cell in read_cells(run) for breach in cell.breaches]
    assert breaches == []
