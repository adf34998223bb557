"""What the live line of a cell says: running means over the steps since warm-up."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from distsqz.cli.progress import RunningMeans
from distsqz.metering.schema import StepRecord


def step(wall_s: float, tcp_tx_bytes: int | None = 1_000_000, **columns: Any) -> StepRecord:
    zeros: dict[str, Any] = {field.name: 0 for field in fields(StepRecord)}
    readings = {"tcp_tx_bytes": tcp_tx_bytes}
    return StepRecord(**zeros | {"wall_s": wall_s, "loss": 6.9, "readings": readings} | columns)


def line(*steps: StepRecord) -> str:
    means = RunningMeans()
    for each in steps:
        means.add(each)
    return str(means)


def test_the_line_shows_means_over_all_steps_and_the_last_loss() -> None:
    steps = [step(0.1, 1_000_000), step(0.2, 3_000_000), step(0.3, 2_000_000, loss=6.5)]
    assert line(*steps) == "200 ms/step  2.0 MB/step sent  loss 6.500"


def test_warm_up_is_named_and_does_not_count_once_it_is_over() -> None:
    warm_up = [step(9.0, warmup=True), step(7.0, warmup=True)]
    assert line(*warm_up) == "warm-up: 8,000 ms/step  1.0 MB/step sent  loss 6.900"
    assert line(*warm_up, step(0.1), step(0.3)) == "200 ms/step  1.0 MB/step sent  loss 6.900"


def test_steps_whose_bytes_are_unknown_are_not_counted_as_zero_bytes() -> None:
    assert line(step(0.1, None), step(0.1, 1_000_000)) == "100 ms/step  1.0 MB/step sent  loss 6.900"
    assert line(step(0.1, None)) == "100 ms/step  loss 6.900"


def test_warm_up_that_is_made_again_after_a_restart_leaves_the_means() -> None:
    assert line(step(0.1), step(9.0, warmup=True)).startswith("100 ms/step")
