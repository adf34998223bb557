"""What goes into a paper: the numbers of the report, in a table that fits a column and compiles."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from handmade_runs import cell, link, steps, write_run

from distsqz import open_run
from distsqz.cli import report
from distsqz.errors import InvalidValue, RequestError
from distsqz.report.formats import ratio
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.paper import PaperTable, latex_table, methods


def measured(root: Path, rates: dict[str, int] | None = None) -> MeasuredRun:
    """SqueezeNet and AlexNet on two emulated hosts, a step ratio of 3."""
    entries = {
        "data": "fashion-mnist",
        "image_size": 64,
        "spans_hosts": True,
        "emulated": True,
        "emulated_rate_bits_per_s": rates or {"a": 10**9, "b": 10**9},
    }
    cells = [cell(model, **entries) for model in ("squeezenet", "alexnet")]
    walls = [1.0, 1.1, 0.9, 1.0, 1.05, 0.95]
    records = [*steps(cells[0], walls), *steps(cells[1], [3 * wall for wall in walls]), link(0, 1, 1.195e8)]
    return MeasuredRun(open_run(write_run(root, cells, records)))


def test_ratios_are_those_of_the_report_with_their_intervals_in_the_cell(tmp_path: Path) -> None:
    run = measured(tmp_path)
    (row,) = run.model_comparisons
    text = latex_table([run], "ratios")
    bytes_ratio, step_ratio = (ratio(row[name]).rstrip("x") for name in ("bytes_ratio", "step_ratio"))
    low, high = (ratio(end).rstrip("x") for end in row["step_ratio_ci95"])
    assert rf"all-reduce & 1 Gbit/s & ${bytes_ratio}\times$ & ${step_ratio}\times$ [{low}, {high}] \\" in text


def test_cells_are_those_of_the_report(tmp_path: Path) -> None:
    run = measured(tmp_path)
    text = latex_table([run], "cells")
    for row in run.rows:
        name = {"squeezenet": "SqueezeNet", "alexnet": "AlexNet"}[row["model"]]
        found = re.search(rf"{name} & all-reduce & 1 Gbit/s & [\d.,]+ & ([\d.,]+)", text)
        step_ms = float(found[1].replace(",", ""))
        assert step_ms == pytest.approx(row["step_s"] * 1e3, rel=1e-3)


@pytest.mark.parametrize("which", ["ratios", "cells"])
def test_a_caption_says_setup_statistic_and_definitions(tmp_path: Path, which: str) -> None:
    text = latex_table([measured(tmp_path)], which)
    for part in (r"\label{tab:distsqz-", r"\toprule", "TCP payload", "95\\%", "2 workers", "emulated"):
        assert part in text


def test_pooled_sessions_say_so(tmp_path: Path) -> None:
    text = latex_table([measured(tmp_path), measured(tmp_path)], "ratios")
    assert "2 sessions with 95\\% intervals that hold the spread" in " ".join(text.split())


def test_cells_of_several_sessions_are_pooled_by_the_rate_of_the_links(tmp_path: Path) -> None:
    slow = {"a": 10**8, "b": 10**8}
    runs = [*(measured(tmp_path) for _ in range(3)), measured(tmp_path, slow)]
    text = latex_table(runs, "cells")
    for name in ("SqueezeNet", "AlexNet"):
        assert len(re.findall(rf"{name} & all-reduce & 1 Gbit/s", text)) == 1
        assert len(re.findall(rf"{name} & all-reduce & 100 Mbit/s", text)) == 1
    assert "geometric means of 3 sessions" in text
    assert "where there is one session, medians of one session" in text


def test_a_rate_with_one_session_has_that_sessions_interval(tmp_path: Path) -> None:
    runs = [measured(tmp_path), measured(tmp_path, {"a": 10**8, "b": 10**8})]
    text = latex_table(runs, "ratios")
    low, high = (ratio(end).rstrip("x") for end in runs[0].model_comparisons[0]["step_ratio_ci95"])
    assert text.count(f"[{low}, {high}]") == 2
    assert "eometric means over paired blocks of one session" in text
    assert "spread between" not in text


def test_methods_round_their_bound_up_and_count_sessions_by_rate(tmp_path: Path) -> None:
    runs = [measured(tmp_path), measured(tmp_path), measured(tmp_path, {"a": 10**8, "b": 10**8})]
    text = methods(runs)
    assert "2 sessions at 1 Gbit/s and 1 session at 100 Mbit/s" in text
    within = float(re.search(r"to within ([\d.]+)%", text)[1]) / 100
    assert all(abs(row["tcp_vs_predicted"]) <= within for run in runs for row in run.rows)


def test_methods_for_latex_are_escaped_and_have_no_format_of_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = (str(measured(tmp_path).run.path),)
    report.main(report.Options(run=run, methods=True, format="latex"))
    text = capsys.readouterr().out
    assert r"95\%" in text
    assert not re.search(r"(?<!\\)[%_]", text)
    with pytest.raises(RequestError, match="--format csv: --methods is a paragraph"):
        report.main(report.Options(run=run, methods=True, format="csv"))


def of_models(
    root: Path,
    models: Sequence[str] = ("squeezenet", "alexnet"),
    strategies: Sequence[str] = ("ddp", "ps"),
    rates: Sequence[int] = (10**9,) * 4,
    scale: float = 1.0,
    data: str = "fashion-mnist",
    **options: Any,
) -> MeasuredRun:
    """A session of every model under every strategy on four emulated hosts.

    Args:
        root: where its directory is written.
        models: the smallest first; a step and the bytes of each are 20 times those of the model before.
        strategies: which ones.
        rates: the rate of each host's link, in bits a second.
        scale: what the times of all steps are multiplied with.
        data: what they are trained on.
        options: further entries of every cell.
    """
    cells, records = [], [link(0, 1, 1.195e8)]
    for place, model in enumerate(models):
        payload_bytes = 4_993_696 * 20**place
        for strategy in strategies:
            servers = {"servers": 4, "server_hosts": [*"abcd"]} if strategy == "ps" else {}
            of = cell(world_size=4, **servers, **options) | {
                "cell": f"{model}-{strategy}-w4",
                "model": model,
                "strategy": strategy,
                "params": payload_bytes // 4,
                "payload_bytes": payload_bytes,
                "data": data,
                "image_size": 64,
                "spans_hosts": True,
                "emulated": True,
                "emulated_rate_bits_per_s": dict(zip("abcd", rates, strict=True)),
            }
            cells.append(of)
            records += steps(of, [scale * 0.1666 * 20**place * wall for wall in (1.0, 1.1, 0.9) * 3])
    return MeasuredRun(open_run(write_run(root, cells, records)))


def readme_setup(root: Path) -> list[MeasuredRun]:
    """Three sessions at each of two rates."""
    at = {rate: (rate,) * 4 for rate in (10**8, 10**9)}
    return [
        of_models(root, rates=at[rate], scale=day * (10**9 / rate) ** 0.5)
        for rate in at
        for day in (1.0, 1.2, 0.9)
    ]


def three_models(root: Path) -> list[MeasuredRun]:
    models = ("squeezenet", "mypackage.zoo:wide_resnet_with_projection", "alexnet")
    return [of_models(root, models), of_models(root, models, rates=(10**8,) * 4)]


def two_placements(root: Path) -> list[MeasuredRun]:
    ways = ("colocated", "dedicated")
    return [of_models(root, placement=way, bucket_mb=25 * len(way), device="cuda") for way in ways]


def mixed_rates(root: Path) -> list[MeasuredRun]:
    return [of_models(root, rates=rates) for rates in ((10**9, 10**9, 10**8, 5 * 10**7), (10**9,) * 4)]


def everything_at_once(root: Path) -> list[MeasuredRun]:
    rates = (10**9, 10**8, 10**8, 10**7)
    models = ("squeezenet", "resnet18", "alexnet")
    return [
        of_models(root, models, rates=rates, placement=way, data="folder:/mnt/imagenet")
        for way in ("colocated", "dedicated", "dedicated")
    ]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="Debian's texlive-latex-recommended is needed")
@pytest.mark.parametrize("which", ["ratios", "cells"])
@pytest.mark.parametrize(
    "make", [readme_setup, three_models, two_placements, mixed_rates, everything_at_once]
)
def test_a_table_compiles_and_fits_a_column_of_3_4_inches(
    tmp_path: Path, make: Callable[[Path], list[MeasuredRun]], which: PaperTable
) -> None:
    page = rf"""\documentclass{{article}}
\usepackage{{booktabs}}
\setlength{{\textwidth}}{{3.4in}}
\begin{{document}}
{latex_table(make(tmp_path / "runs"), which)}
\end{{document}}
"""
    (tmp_path / "table.tex").write_text(page)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    overfull = re.findall(r"Overfull.*", (tmp_path / "table.log").read_text())
    assert not overfull, page


def test_methods_say_what_was_measured_how_and_with_which_versions(tmp_path: Path) -> None:
    run = measured(tmp_path)
    text = methods([run])
    versions = run.run.meta["environment"]["versions"]
    for part in (
        "AlexNet and SqueezeNet by all-reduce",
        "16 images of 64x64 a worker and step from fashion-mnist",
        "shaped to 1 Gbit/s",
        "956 Mbit/s",
        f"torch {versions['torch']}",
        f"distsqz {versions['distsqz']}",
        run.run_id,
    ):
        assert part in text


def test_a_table_for_a_paper_is_for_latex(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--table ratios: is for LaTeX; add --format latex"):
        report.main(report.Options(run=(str(measured(tmp_path).run.path),), table="ratios"))


def of_cells(
    root: Path, *cells: dict[str, Any], walls: Sequence[float] = (1.0,) * 6, **columns: Any
) -> MeasuredRun:
    """A run of these cells, all of whose steps take the same times."""
    return MeasuredRun(
        open_run(write_run(root, cells, [row for of in cells for row in steps(of, walls, **columns)]))
    )


@pytest.mark.parametrize(
    "difference", [{"hosts": ["a", "a"]}, {"device": "cuda"}, {"placement": "dedicated"}]
)
def test_cells_on_other_places_or_machines_are_rows_of_their_own(
    tmp_path: Path, difference: dict[str, Any]
) -> None:
    ways = ({}, difference)
    text = latex_table([of_cells(tmp_path, cell(**way)) for way in ways], "cells")
    (name,) = difference
    groups = re.findall(rf"\\multicolumn.*{name}=.*\n +SqueezeNet & all-reduce &", text)
    assert len(groups) == 2
    assert "sessions" not in text


def test_a_session_without_steps_leaves_the_step_time_of_the_others(tmp_path: Path) -> None:
    runs = [of_cells(tmp_path, cell(), walls=()), of_cells(tmp_path, cell(), walls=[0.7, 0.8, 0.9] * 2)]
    text = latex_table(runs, "cells")
    assert re.search(r"SqueezeNet & all-reduce & -- & 5.0 & 800 \[", text)
    assert "medians of one session" in text


@pytest.mark.parametrize("machine_cores", [2, 16])
def test_cores_are_called_shared_only_where_hosts_have_more_than_the_machine(
    tmp_path: Path, machine_cores: int
) -> None:
    of = cell(emulated=True, machine_cores=machine_cores, emulated_rate_bits_per_s={"a": 10**9, "b": 10**9})
    run = of_cells(tmp_path, of)
    shared = machine_cores == 2
    assert ("whose cores the hosts share" in latex_table([run], "cells")) == shared
    assert ("and shared its 2 cores" in methods([run])) == shared
    assert "emulated on one machine" in latex_table([run], "cells")
    assert "Hosts were emulated on one machine" in methods([run])


def with_environment(run: MeasuredRun, **environment: Any) -> MeasuredRun:
    """The run, its run.json telling of another machine."""
    path = run.run.path / "run.json"
    meta = json.loads(path.read_text())
    meta["environment"] |= environment
    path.write_text(json.dumps(meta))
    return MeasuredRun(open_run(run.run.path))


def test_methods_list_the_versions_platforms_and_processors_of_all_runs(tmp_path: Path) -> None:
    runs = [
        with_environment(
            measured(tmp_path),
            cpu=cpu,
            platform=platform,
            versions={"torch": torch, "ray": "2.60.0", "distsqz": distsqz},
        )
        for cpu, platform, torch, distsqz in (
            ("EPYC", "Linux-6.1", "2.11.0", "0.1.0"),
            ("Xeon", "Linux-6.8", "2.12.0", "0.2.0"),
        )
    ]
    text = methods(runs)
    assert "Processor: EPYC and Xeon. torch 2.11.0 or 2.12.0, ray 2.60.0, Linux-6.1, Linux-6.8." in text
    assert "Cite: distsqz 0.1.0 or 0.2.0, which" in text


def test_bytes_that_tcp_did_not_count_are_said_to_follow_from_the_formula(tmp_path: Path) -> None:
    uncounted = of_cells(tmp_path, cell(), cell("alexnet"), tcp_tx_bytes=None)
    counted = measured(tmp_path)
    assert "TCP bytes were not counted; bytes follow from the strategy's formula." in methods([uncounted])
    assert "TCP payload" not in methods([uncounted])
    assert "Where TCP bytes were not counted, they follow from the formula." in methods([counted, uncounted])
    assert "follow from" not in methods([counted])
    assert "in a step (by the strategy's formula), and" in latex_table([uncounted], "ratios")
    assert "in a step (TCP payload, or by the formula), and" in latex_table([uncounted, counted], "ratios")


def test_no_runs_are_refused() -> None:
    for made in (lambda: methods([]), lambda: latex_table([], "cells"), lambda: latex_table([], "ratios")):
        with pytest.raises(InvalidValue, match="runs: must hold at least one run"):
            made()


def test_methods_tell_sessions_apart_by_the_rates_of_all_links(tmp_path: Path) -> None:
    runs = [measured(tmp_path), measured(tmp_path, {"a": 10**9, "b": 10**8})]
    text = methods(runs)
    assert "1 session at 1 Gbit/s and 1 session at 1 Gbit/s, 100 Mbit/s" in text


def test_links_of_no_set_rate_are_called_by_what_they_carried(tmp_path: Path) -> None:
    of = cell(spans_hosts=True)
    run = MeasuredRun(open_run(write_run(tmp_path, [of], [*steps(of, [1.0] * 6), link(0, 1, 118e6)])))
    text = latex_table([run], "cells")
    assert "SqueezeNet & all-reduce & 944 Mbit/s & 5.0" in text
    assert "Links of no set rate: TCP payload that the slowest carried before training." in text


def test_links_of_several_rates_are_named_above_their_rows(tmp_path: Path) -> None:
    runs = [measured(tmp_path, {"a": 10**9, "b": 10**8}), measured(tmp_path)]
    for which in ("ratios", "cells"):
        plain, _, mixed = latex_table(runs, which).partition(r"\multicolumn")
        assert "links of 1 Gbit/s, 100 Mbit/s" in mixed.splitlines()[0]
        assert "all-reduce & mixed &" in mixed and "& 1 Gbit/s &" not in mixed
        assert "all-reduce & 1 Gbit/s &" in plain and "mixed" not in plain
