"""What the live line of a cell says: running means over the steps since warm-up."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from distsqz.cli.progress import RunningMeans, SessionProgress
from distsqz.cli.progress_console import progress_console
from distsqz.cli.shipping_progress import ShippingProgress
from distsqz.cluster.collector import Delivery
from distsqz.metering.schema import StepRecord
from distsqz.strategies.parameter_server.strategy import ParameterServer
from distsqz.training.options import TrainingOptions
from distsqz.training.plan import plan_session


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


def test_what_a_host_s_link_carries_stands_beside_what_a_worker_sends_where_that_is_less() -> None:
    means = RunningMeans(host_bytes=2_000_000)
    means.add(step(0.1, 1_000_000))
    assert str(means) == "100 ms/step  1.0 MB/step sent, 2.0 MB on a host's link  loss 6.900"
    means.host_bytes = 1_010_000
    assert str(means) == "100 ms/step  1.0 MB/step sent  loss 6.900"


def test_a_host_s_bytes_follow_from_where_workers_and_servers_are() -> None:
    entry = {"cell": "squeezenet-ps-w2", "strategy": "ps", "world_size": 2, "payload_bytes": 4_000_000}
    plan, _ = plan_session(["squeezenet"], 2, TrainingOptions(image_size=64), [ParameterServer()])
    progress = SessionProgress(plan.cells, entries=[entry])
    facts = {"hosts": ["a", "b"], "spans_hosts": True, "server_hosts": ["a", "b"]}
    with progress:
        progress(Delivery(facts={"squeezenet-ps-w2": facts}))
    # Half of the gradients leave with the worker's pushes, half of the parameters with the server's answers.
    assert progress.means["squeezenet-ps-w2"].host_bytes == 4_000_000


def test_lines_are_whole_where_stderr_is_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    plan, _ = plan_session(["squeezenet"], 2, TrainingOptions(image_size=64))
    name = plan.cells[0].name
    with SessionProgress(plan.cells) as progress:
        progress(Delivery(records={"steps": [step(0.1, cell=name, step=3, rank=0)]}))
    (line,) = (line for line in capsys.readouterr().err.splitlines() if name in line)
    assert f" 4/{plan.cells[0].total_steps} 100 ms/step  1.0 MB/step sent  loss 6.900 0:00:0" in line
    assert line == line.rstrip()


def test_lines_of_shipments_are_whole_where_stderr_is_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    name = "squeezenet-of-a-long-name-" * 3
    with ShippingProgress({name: 1_000_000}, clients=2, heading="run: runs/1") as progress:
        progress(name, sent_bytes=500_000, arrived=1)
    (line,) = (line for line in capsys.readouterr().err.splitlines() if name in line)
    assert "0.5/2.0 MB" in line and "1/2 clients" in line


def test_lines_fit_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert progress_console().width == 40
