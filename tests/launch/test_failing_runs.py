"""Runs that fail in the middle: status 1, one line that says where and why, and what was measured is kept."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import numpy as np
import pytest
from commands import SMALL, Commands, report
from PIL import Image

from distsqz.runs.writer import FAILED
from tests.own_models import COMPLAINT, ENDS_AT_STEP, ENDS_ON_RANK

pytestmark = pytest.mark.ray

FEW_STEPS = ("--batch-size", 4, "--image-size", 16, "--steps", 8, "--warmup-steps", 1)


def test_an_exception_on_one_rank_is_told_in_one_line(joined: Commands) -> None:
    failed = joined("launch/ddp.py", "--model", "tests.own_models:RaisingNet", *FEW_STEPS)
    assert (failed.status, failed.stdout) == (1, "")
    assert "Traceback" not in failed.stderr
    host = failed.run.meta["environment"]["host"]
    cell = "tests.own_models.RaisingNet-ddp-w2"
    where = f"cell {cell}, host {host}, rank {ENDS_ON_RANK}, step {ENDS_AT_STEP}"
    assert failed.error_line == f"error: {where}: ValueError: {COMPLAINT}"
    assert failed.run.meta["status"] == FAILED
    assert failed.run.meta["error"] == {
        "text": f"{where}: ValueError: {COMPLAINT}",
        "cell": cell,
        "host": host,
        "rank": ENDS_ON_RANK,
        "step": ENDS_AT_STEP,
    }


def test_a_rank_that_is_killed_is_named_by_the_others_and_the_steps_before_are_kept(joined: Commands) -> None:
    failed = joined("launch/ddp.py", "--model", "tests.own_models:DyingNet", *FEW_STEPS, "--debug")
    assert (failed.status, failed.stdout) == (1, "")
    steps = failed.table("steps")
    of_survivor = steps[steps["rank"] != ENDS_ON_RANK]
    assert list(of_survivor["step"]) == list(range(ENDS_AT_STEP))
    said = report(failed.run.path)
    assert said["runs"][0]["status"] == FAILED
    assert "Traceback" in failed.stderr

    ended = datetime.datetime.fromisoformat(failed.run.meta["ended_at"]).timestamp()
    assert ended - of_survivor["t_start_ns"].max() / 1e9 < 60
    assert re.search(rf"\brank {ENDS_ON_RANK}\b", failed.error_line)
    assert "died" in failed.error_line
    assert failed.run.meta["error"]["rank"] == ENDS_ON_RANK


@pytest.mark.slow
def test_an_image_that_cannot_be_decoded_is_named(joined: Commands, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 24, 24, 3), np.uint8)
    for number, pixels in enumerate(noise):
        path = tmp_path / "train" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[:-600])
    path.with_name("notes.txt").touch()
    failed = joined("launch/ddp.py", *SMALL, "--data", f"imagefolder:{tmp_path}")
    assert (failed.status, failed.stdout) == (1, "")
    assert str(path) in failed.error_line
    assert "replace or remove it" in failed.error_line
    left_out = f"left out of imagefolder:{tmp_path}: 1 file that is no image (.txt 1)"
    assert failed.stderr.count(left_out) == 1
    assert "Traceback" not in failed.stderr
