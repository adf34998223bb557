"""Speed-ups: what several hosts gain over one worker alone, as measured or as hosts of their own would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from handmade_runs import cell, link, steps, write_run
from hypothesis import given
from hypothesis import strategies as st

from distsqz import open_run
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.page.page import page_of
from distsqz.report.pooling import pool
from distsqz.report.report import read_sections, render_report
from distsqz.report.speedups import own_hosts_step_s


def baseline(of: dict[str, Any], **entries: Any) -> dict[str, Any]:
    """The baseline of a cell: the same model on the first of its hosts."""
    alone = {"cell": f"{of['model']}-alone-w1", "strategy": "alone", "world_size": 1, "hosts": ["a"]}
    return {**of, **alone, "metered": False, "spans_hosts": False, **entries}


def measured(root: Path, walls_s: dict[str, list[float]], *cells: dict[str, Any]) -> MeasuredRun:
    """A run whose cells have these wall times by strategy."""
    records = [step for of in cells for step in steps(of, walls_s[of["strategy"]])]
    links = [link(rank, 1 - rank, 1e9) for rank in range(2)]
    return MeasuredRun(open_run(write_run(root, cells, [*records, *links])))


def test_a_speed_up_is_images_a_second_over_those_of_one_worker(tmp_path: Path) -> None:
    of = cell(spans_hosts=True)
    run = measured(tmp_path, {"ddp": [1.6] * 6, "alone": [1.0] * 6}, of, baseline(of))
    (row,) = run.speedups
    assert row["speedup_ratio"] == pytest.approx(2 / 1.6)
    assert row["efficiency_share"] == pytest.approx(1 / 1.6)
    assert row["speedup_ratio_ci95"] == pytest.approx([2 / 1.6] * 2)
    assert (row["hosts"], row["computed"], row["own_hosts_step_s"]) == (2, False, None)


def test_what_slows_both_of_a_pair_of_blocks_cancels_out(tmp_path: Path) -> None:
    of = cell(spans_hosts=True)
    slow = [1.0, 3.0, 2.0, 5.0, 4.0, 1.5]
    run = measured(tmp_path, {"ddp": [4 * wall for wall in slow], "alone": slow}, of, baseline(of))
    (row,) = run.speedups
    assert row["speedup_ratio"] == pytest.approx(0.5)
    assert row["speedup_ratio_ci95"] == pytest.approx([0.5, 0.5])


def test_workers_on_the_baseline_s_own_host_have_no_efficiency(tmp_path: Path) -> None:
    of = cell(hosts=["a", "a"], spans_hosts=False)
    run = measured(tmp_path, {"ddp": [1.0] * 4, "alone": [1.0] * 4}, of, baseline(of))
    (row,) = run.speedups
    assert (row["hosts"], row["speedup_ratio"], row["efficiency_share"]) == (1, pytest.approx(2), None)


def test_slower_than_one_machine_is_said_in_a_finding(tmp_path: Path) -> None:
    of = cell(spans_hosts=True)
    run = measured(tmp_path, {"ddp": [4.0] * 4, "alone": [1.0] * 4}, of, baseline(of))
    text = render_report([run], read_sections([run]), "table")
    assert "squeezenet 0.500x under ddp (25% efficiency), slower than one machine." in " ".join(text.split())


def test_a_baseline_of_other_options_is_no_baseline(tmp_path: Path) -> None:
    of = cell(spans_hosts=True, precision="fp32")
    other = baseline(of, precision="bf16")
    assert measured(tmp_path, {"ddp": [1.0] * 4, "alone": [1.0] * 4}, of, other).speedups == []


def test_baselines_are_neither_cells_nor_compared(tmp_path: Path) -> None:
    small, large = cell(spans_hosts=True), cell("alexnet", spans_hosts=True)
    walls_s = {"ddp": [1.0] * 4, "alone": [1.0] * 4}
    run = measured(tmp_path, walls_s, small, baseline(small), large, baseline(large))
    assert [row["cell"] for row in run.rows] == ["squeezenet-ddp-w2", "alexnet-ddp-w2"]
    (compared,) = next(each for each in read_sections([run]) if each.key == "comparisons").rows
    assert (compared["small_cell"], compared["large_cell"]) == ("squeezenet-ddp-w2", "alexnet-ddp-w2")


def test_emulated_hosts_that_share_cores_get_the_step_of_hosts_of_their_own(tmp_path: Path) -> None:
    # Compute is half of a step, communication 0.4 of it; the ring of two carries the payload once.
    of = cell(
        spans_hosts=True,
        emulated=True,
        machine_cores=2,
        emulated_rate_bits_per_s={"a": 10**9, "b": 10**9},
    )
    run = measured(tmp_path, {"ddp": [0.08] * 4, "alone": [0.02] * 4}, of, baseline(of))
    (row,) = run.speedups
    (bound_s,) = (each["bound_s"] for each in run.rows)
    hidden_s = bound_s - 0.032
    assert 0 < hidden_s < 0.04
    assert row["own_hosts_step_s"] == pytest.approx(0.02 + 0.032 + hidden_s - hidden_s * 0.02 / 0.04)
    assert row["speedup_ratio"] == pytest.approx(2 * 0.02 / row["own_hosts_step_s"])
    assert row["computed"] and row["speedup_ratio_ci95"] is None


@given(
    compute_s=st.floats(1e-3, 10),
    slowdown=st.floats(1, 8),
    bound_s=st.floats(1e-3, 10),
    overlap=st.floats(0, 1),
)
def test_the_step_of_hosts_of_their_own_lies_between_full_overlap_and_none(
    compute_s: float, slowdown: float, bound_s: float, overlap: float
) -> None:
    crowded_s = compute_s * slowdown
    hidden_s = overlap * min(bound_s, crowded_s)
    row = {"compute_s": crowded_s, "exposed_comm_s": bound_s - hidden_s, "bound_s": bound_s}
    own_s = own_hosts_step_s(row, compute_s)
    assert own_s is not None
    assert max(compute_s, bound_s) * (1 - 1e-9) <= own_s <= (compute_s + bound_s) * (1 + 1e-9)


@pytest.mark.parametrize("unknown", ["compute_s", "exposed_comm_s", "bound_s"])
def test_nothing_is_computed_from_what_is_not_known(unknown: str) -> None:
    row = {"compute_s": 1.0, "exposed_comm_s": 0.5, "bound_s": 0.5, unknown: None}
    assert own_hosts_step_s(row, 0.5) is None


@pytest.mark.parametrize(
    ("walls_s", "slower"), [([2.3, 1.9, 2.4, 1.8, 2.5, 1.9], False), ([2.3, 2.2, 2.4, 2.3, 2.5, 2.4], True)]
)
def test_slower_than_one_machine_is_said_only_where_the_whole_interval_is_below_one(
    tmp_path: Path, walls_s: list[float], slower: bool
) -> None:
    of = cell(spans_hosts=True)
    runs = [measured(tmp_path, {"ddp": walls_s, "alone": [1.0] * 6}, of, baseline(of))]
    (row,) = runs[0].speedups
    assert row["speedup_ratio"] < 1
    assert (row["speedup_ratio_ci95"][1] < 1) == slower
    assert ("slower than one machine" in render_report(runs, read_sections(runs), "markdown")) == slower
    assert ("slower than one machine" in page_of(runs)) == slower


@pytest.mark.parametrize(("factors", "slower"), [((0.9, 1.3), False), ((1.2, 1.21), True)])
def test_pooled_sessions_are_slower_than_one_machine_only_where_their_interval_is_below_one(
    tmp_path: Path, factors: tuple[float, ...], slower: bool
) -> None:
    of = cell(spans_hosts=True)
    walls = [{"ddp": [2 * factor] * 6, "alone": [1.0] * 6} for factor in factors]
    runs = [measured(tmp_path, each, of, baseline(of)) for each in walls]
    (row,) = pool(runs)
    assert row["time_ratio"] < 1
    assert ("slower than one machine" in render_report(runs, read_sections(runs), "markdown")) == slower
    assert ("slower than one machine" in page_of(runs)) == slower
