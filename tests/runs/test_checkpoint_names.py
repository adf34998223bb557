"""Names of checkpoint files: short ones as they are, long ones shortened, none shared."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from distsqz.metering.schema import TABLES
from distsqz.runs.checkpoint_names import checkpoint_name, checkpoint_pattern
from distsqz.runs.writer import RunWriter
from distsqz.training.checkpoint import Checkpoint, load_checkpoint

LEAST_NAME_MAX = 143
"""Bytes of a file name on eCryptfs, which takes the least of Linux's file systems."""


def checkpoint(seed: int) -> Checkpoint:
    return Checkpoint(
        model_name="m",
        num_classes=2,
        world_size=1,
        batch_size=1,
        seed=seed,
        step=3,
        tx_bytes=None,
        model={},
        optimizer={},
    )


def test_a_short_name_stays_as_it_is() -> None:
    assert checkpoint_name("squeezenet-ddp-w2", 40) == "squeezenet-ddp-w2-step-00000040.pt"


@pytest.mark.parametrize("letter", ["x", "\u00e9", "\u6f22", "\U00010400"])
@pytest.mark.parametrize("letters", [50, 120, 121, 240, 5000])
def test_no_name_is_too_long_for_a_file_system(letter: str, letters: int) -> None:
    assert len(checkpoint_name(letter * letters, 10**9).encode()) <= LEAST_NAME_MAX


def test_a_pattern_finds_the_files_of_its_cell_alone() -> None:
    cells = ["x" * 240, "x" * 239 + "y", "x" * 119, "x[ab]*", "xa"]
    for cell in cells:
        found = [other for other in cells if fnmatchcase(checkpoint_name(other, 7), checkpoint_pattern(cell))]
        assert found == [cell]


def test_a_run_keeps_checkpoints_of_cells_of_any_name_apart(tmp_path: Path) -> None:
    cells = ["m" * 240 + "-ddp-w2", "m" * 240 + "-ps-w2"]
    writer = RunWriter.create(tmp_path, "test", [], {}, [], tables=TABLES)
    for seed, cell in enumerate(cells):
        writer.save_checkpoint(cell, 3, checkpoint(seed).to_bytes())
    assert [load_checkpoint(writer.path, cell, {}).seed for cell in cells] == [0, 1]
    assert len(list((writer.path / "checkpoints").iterdir())) == 2
