"""Pooled sessions: the interval covers what sessions share, also where days or processors differ."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade_runs import cell, link, steps, write_run
from test_speedups import baseline, measured

from distsqz import open_run
from distsqz.cli import report
from distsqz.metering.schema import Record
from distsqz.report import pooling
from distsqz.report.bootstrap import Floats, paired_ratio
from distsqz.report.figures import draw_ratios
from distsqz.report.formats import ratio
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.page.page import page_of
from distsqz.report.paper import latex_table
from distsqz.report.pooling import pool, pooled_ratio
from distsqz.report.report import document, read_sections, render_report
from distsqz.report.sections import sessions

TRUTH = 20.0
DRAWS = 1000
BLOCKS = 10
WITHIN, BETWEEN = 0.03, 0.08
"""Spread of the logarithm of a ratio over the blocks of a session, and over sessions."""


def drawn_sessions(number: int, rng: np.random.Generator) -> list[tuple[Floats, Floats]]:
    """Block means of two models in several sessions; each session has a ratio of its own around the truth."""
    sessions = []
    for of_session in TRUTH * np.exp(rng.normal(0, BETWEEN, number)):
        small = np.exp(rng.normal(0, WITHIN, BLOCKS))
        sessions.append((of_session * small * np.exp(rng.normal(0, WITHIN, BLOCKS)), small))
    return sessions


@pytest.mark.parametrize("number", [3, 5])
def test_a_pooled_interval_covers_the_truth_in_about_95_of_100_draws(number: int) -> None:
    rng = np.random.default_rng(number)
    covered = 0
    for _ in range(DRAWS):
        sessions = drawn_sessions(number, rng)
        ratios = [float(np.exp(np.log(large / small).mean())) for large, small in sessions]
        _, interval = pooled_ratio(np.array(ratios))
        assert interval
        covered += interval[0] <= TRUTH <= interval[1]
    assert 0.90 <= covered / DRAWS <= 0.99


def test_a_single_session_s_interval_does_not_cover_what_other_sessions_find() -> None:
    rng = np.random.default_rng(1)
    trials = 40
    intervals = [paired_ratio(*drawn_sessions(1, rng)[0])[1] for _ in range(trials)]
    covered = sum(low <= TRUTH <= high for low, high in filter(None, intervals))
    assert covered < 0.6 * trials


def test_one_session_has_no_spread_to_tell() -> None:
    assert pooled_ratio(np.array([20.0])) == (pytest.approx(20.0), None)


def session(
    root: Path, ratio: float, cpu: str, rate: int | None = None, links: Sequence[Record] = (), **entries: Any
) -> MeasuredRun:
    """A run of both models whose step times have a ratio, on a processor, over links of a rate."""
    rates = {"a": rate, "b": rate} if rate else None
    emulated = {"emulated_rate_bits_per_s": rates, "spans_hosts": True, **entries}
    small, large = cell(**emulated), cell("alexnet", **emulated)
    path = write_run(root, [small, large], [*steps(small, [1.0] * 6), *steps(large, [ratio] * 6), *links])
    meta = json.loads((path / "run.json").read_text())
    meta["environment"]["cpu"] = cpu
    (path / "run.json").write_text(json.dumps(meta))
    return MeasuredRun(open_run(path))


def test_sessions_of_the_same_cells_are_pooled_and_their_processors_told(tmp_path: Path) -> None:
    runs = [session(tmp_path, ratio, cpu) for ratio, cpu in ((16.0, "EPYC"), (20.0, "Xeon"), (25.0, "EPYC"))]
    (row,) = pool(runs)
    assert row["time_ratio"] == pytest.approx(20.0)
    assert row["session_ratio"] == pytest.approx([16.0, 20.0, 25.0])
    low, high = row["time_ratio_ci95"]
    assert low < 16 and high > 25  # two degrees of freedom: Student's t is 4.3
    assert (row["sessions"], row["processors"]) == (3, ["EPYC", "Xeon"])
    assert row["run_ids"] == [run.run_id for run in runs]


def test_findings_are_of_the_pool_and_not_of_each_session(tmp_path: Path) -> None:
    runs = [session(tmp_path, ratio, "EPYC") for ratio in (19.0, 21.0)]
    text = " ".join(render_report(runs, read_sections(runs), "table").split())
    assert (
        "Over 2 sessions, with 2 workers under ddp, squeezenet sends 48.9x fewer bytes than alexnet and"
        in text
    )
    assert "95% interval with the spread between sessions" in text
    assert "within this session" not in text


def test_ratios_at_several_rates_stand_in_one_table(tmp_path: Path) -> None:
    rates = (10**8, 10**9, 10**9, 10**8)
    runs = [session(tmp_path, 3e9 / rate, "EPYC", rate) for rate in rates]
    rows = pool(runs)
    assert [(row["rate_bits_per_s"], row["sessions"]) for row in rows] == [(10**8, 2), (10**9, 2)]
    assert [row["time_ratio"] for row in rows] == pytest.approx([30.0, 3.0])
    assert len(document(runs, read_sections(runs))["sessions"]) == 2


def test_the_figure_shows_the_pooled_ratios_of_the_table(tmp_path: Path) -> None:
    runs = [session(tmp_path, 3e9 / rate, "EPYC", rate) for rate in (10**8, 10**9, 10**9, 10**8)]
    path = tmp_path / "ratios.svg"
    report.main(report.Options(run=tuple(str(run.run.path) for run in runs), figure=path))
    drawn = re.findall(r"<!-- (.*?) -->", path.read_text())  # matplotlib keeps each text in a comment
    assert {"30.0x", "3.00x", "100 Mbit/s", "1 Gbit/s", "bytes: 48.9x at any rate"} <= set(drawn)


def test_the_page_opens_with_the_pooled_ratios_in_place_of_single_sessions(tmp_path: Path) -> None:
    runs = [session(tmp_path, 3e9 / rate, "EPYC", rate) for rate in (10**8, 10**9, 10**9, 10**8)]
    findings = page_of(runs).partition('class="findings"')[2].partition("</section>")[0]
    shown = set(re.findall(r'data-key="([\w.]+)"', findings))
    pooled = [index for index, row in enumerate(pool(runs)) if row["kind"] == "models"]
    assert {f"sessions.{index}.time_ratio" for index in pooled} <= shown
    assert not any(key.startswith("comparisons.") for key in shown)


@pytest.mark.parametrize("difference", [{"batch_size": 32}, {"hosts": ["a", "a"]}, {"precision": "bf16"}])
def test_cells_that_differ_are_not_pooled(difference: dict[str, Any], tmp_path: Path) -> None:
    assert pool([session(tmp_path, 20.0, "EPYC"), session(tmp_path, 20.0, "EPYC", **difference)]) == []


def test_a_single_run_is_not_a_pool(tmp_path: Path) -> None:
    assert pool([session(tmp_path, 20.0, "EPYC")]) == []


def test_pooled_findings_say_what_cannot_be_told_apart(tmp_path: Path) -> None:
    runs = [session(tmp_path, 3.0, "EPYC", 10**9), session(tmp_path, 0.3, "EPYC", 10**9)]
    (finding,) = sessions.section(runs).sentences
    assert "their step times cannot be told apart" in finding


def links_at(*rates: int | None) -> dict[str, Any]:
    """The entries of a cell whose hosts have links of these rates, None one that is not known."""
    hosts = "abcd"[: len(rates)]
    known = {host: rate for host, rate in zip(hosts, rates, strict=True) if rate}
    return {"world_size": len(rates), "hosts": [*hosts], "emulated_rate_bits_per_s": known}


def test_sessions_are_pooled_only_where_every_host_s_link_has_the_same_rate(tmp_path: Path) -> None:
    one_slow, other_slow = links_at(10**9, 10**8), links_at(10**8, 10**9)
    runs = [session(tmp_path, 20.0, "EPYC", **entries) for entries in (one_slow, one_slow, other_slow)]
    first, second = pool(runs)
    assert (first["sessions"], first["host_rates_bits_per_s"]) == (2, [10**9, 10**8])
    assert (second["sessions"], second["host_rates_bits_per_s"]) == (1, [10**8, 10**9])
    text = " ".join(sessions.section(runs).sentences)
    assert "at 1 Gbit/s, 100 Mbit/s" in text
    assert "at 100 Mbit/s, 1 Gbit/s" in text


def test_links_of_one_rate_and_links_of_mixed_rates_are_not_pooled(tmp_path: Path) -> None:
    runs = [session(tmp_path, 20.0, "EPYC", **links_at(10**9, rate)) for rate in (10**9, 10**8)]
    assert [row["sessions"] for row in pool(runs)] == [1, 1]


def over(root: Path, ratio: float, goodput_bytes_per_s: float) -> MeasuredRun:
    """A session over links whose rates are not known, which carried that much before training."""
    links = [link(0, 1, goodput_bytes_per_s), link(1, 0, 1.001 * goodput_bytes_per_s)]
    return session(root, ratio, "EPYC", links=links)


def test_sessions_over_real_links_are_pooled_where_these_carried_about_as_much(tmp_path: Path) -> None:
    runs = [over(tmp_path, ratio, goodput) for ratio, goodput in ((20.0, 119e6), (5.0, 400e6), (22.0, 116e6))]
    (row,) = pool(runs)
    assert row["run_ids"] == [runs[0].run_id, runs[2].run_id]
    assert row["goodput_bytes_per_s"] == pytest.approx(117.5e6)
    (finding,) = sessions.section(runs).sentences
    assert "under ddp at 940 Mbit/s measured" in finding


def test_sessions_over_real_links_that_carried_different_amounts_are_not_pooled(tmp_path: Path) -> None:
    assert pool([over(tmp_path, 20.0, 119e6), over(tmp_path, 5.0, 1.19e9)]) == []
    assert pool([over(tmp_path, 20.0, 119e6), session(tmp_path, 20.0, "EPYC")]) == []


def test_emulated_links_are_pooled_by_their_rate_whatever_they_carried(tmp_path: Path) -> None:
    runs = [session(tmp_path, 20.0, "EPYC", 10**9, links=[link(0, 1, goodput)]) for goodput in (119e6, 110e6)]
    (row,) = pool(runs)
    assert (row["sessions"], row["goodput_bytes_per_s"]) == (2, None)


def test_speed_ups_that_were_computed_are_not_pooled_with_those_that_were_measured(tmp_path: Path) -> None:
    shared = {"emulated": True, "machine_cores": 2, "spans_hosts": True, **links_at(10**9, 10**9)}
    runs = []
    for cores in ({"a": 2, "b": 2}, {"a": 1, "b": 1}):
        of = cell(**shared, cores_by_host=cores)
        runs += [measured(tmp_path, {"ddp": [0.08] * 6, "alone": [0.02] * 6}, of, baseline(of))] * 2
    rows = pool(runs)
    assert [(row["computed"], row["sessions"]) for row in rows] == [(True, 2), (False, 2)]


def session_of(root: Path, *cells: dict[str, Any]) -> MeasuredRun:
    """A session of these cells: alexnet's step takes three times squeezenet's, ps half as long again."""
    slower = {"squeezenet": 1.0, "alexnet": 3.0, "ddp": 1.0, "ps": 1.5, "alone": 1.0}
    records = [row for of in cells for row in steps(of, [slower[of["model"]] * slower[of["strategy"]]] * 6)]
    return MeasuredRun(open_run(write_run(root, cells, records)))


def of_both(strategy: str) -> list[dict[str, Any]]:
    """Both models under a strategy."""
    servers = {"servers": 2, "server_hosts": ["a", "b"], "consistency": "sync"} if strategy == "ps" else {}
    return [
        cell(model, strategy=strategy, cell=f"{model}-{strategy}-w2", block_steps=1, **servers)
        for model in ("squeezenet", "alexnet")
    ]


def sentences_of(key: str, runs: Sequence[MeasuredRun]) -> list[str]:
    (found,) = (section.sentences for section in read_sections(runs) if section.key == key)
    return list(found)


def first_screen(runs: Sequence[MeasuredRun]) -> tuple[str, set[str]]:
    """The text of the page's findings, without tags, and the keys of their numbers."""
    findings = page_of(runs).partition('class="findings"')[2].partition("</section>")[0]
    text = re.sub(r"<.*?>", "", findings).replace("\u00a0", " ")
    return " ".join(text.split()), set(re.findall(r'data-key="([\w.]+)"', findings))


def test_only_the_pooled_comparisons_of_models_are_left_out_of_a_run_s_findings(tmp_path: Path) -> None:
    runs = [session_of(tmp_path, *of_both("ddp"), *of_both("ps")), session_of(tmp_path, *of_both("ddp"))]
    (finding,) = sentences_of("comparisons", runs)
    assert "With 2 workers under ps, squeezenet sends" in finding
    _, keys = first_screen(runs)
    assert {"sessions.0.time_ratio", "comparisons.1.step_ratio"} <= keys
    assert not keys & {"comparisons.0.step_ratio", "comparisons.2.step_ratio"}
    table = latex_table(runs, "ratios")
    assert table.count("all-reduce & ") == table.count("parameter server & ") == 1


def test_only_the_pooled_comparisons_of_strategies_are_left_out_of_a_run_s_findings(tmp_path: Path) -> None:
    small, large = ([of[index] for of in (of_both("ddp"), of_both("ps"))] for index in (0, 1))
    runs = [session_of(tmp_path, *small, *large), session_of(tmp_path, *small)]
    (finding,) = sentences_of("strategy_comparisons", runs)
    assert "for alexnet under ddp and ps" in finding
    text, keys = first_screen(runs)
    assert "A step of squeezenet ps, 2 workers, takes 1.50 times as long as one of squeezenet ddp" in text
    assert "For alexnet (session 1), a step under ps takes 1.50 times as long as under ddp" in text
    assert "strategy_comparisons.0.step_ratio" not in keys


def test_only_the_pooled_speed_ups_are_left_out_of_a_run_s_findings(tmp_path: Path) -> None:
    small, large = ([of, baseline(of)] for of in of_both("ddp"))
    runs = [session_of(tmp_path, *small, *large), session_of(tmp_path, *small)]
    (finding,) = sentences_of("speedups", runs)
    assert "alexnet-ddp-w2 2.00x" in finding
    assert "squeezenet" not in finding
    text, keys = first_screen(runs)
    assert (
        "alexnet under ddp (session 1) trains 2.00 times as many images a second as one worker alone" in text
    )
    assert keys >= {"sessions.0.time_ratio", "speedups.1.speedup_ratio"}
    assert not keys & {"speedups.0.speedup_ratio", "speedups.2.speedup_ratio"}


def test_a_report_and_its_page_read_the_comparisons_of_each_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    of_run = pooling._measured
    monkeypatch.setattr(pooling, "_measured", lambda run: read.append(run.run_id) or of_run(run))
    runs = [session(tmp_path, ratio, "EPYC") for ratio in (19.0, 21.0)]
    render_report(runs, read_sections(runs), "table")
    page_of(runs)
    assert read == [run.run_id for run in runs]


def scattered(root: Path, ratio: float, rate: int) -> MeasuredRun:
    """A session whose blocks scatter, so that its interval has a width."""
    entries = links_at(rate, rate)
    small, large = cell(**entries), cell("alexnet", **entries)
    walls = [ratio * wall for wall in (1.0, 1.1, 0.9, 1.0, 1.05, 0.95)]
    return MeasuredRun(
        open_run(write_run(root, [small, large], [*steps(small, [1.0] * 6), *steps(large, walls)]))
    )


def test_one_session_at_a_rate_has_its_own_interval_in_table_page_latex_and_figure(tmp_path: Path) -> None:
    runs = [scattered(tmp_path, ratio, rate) for ratio, rate in ((30.0, 10**8), (3.0, 10**9), (3.2, 10**9))]
    interval = runs[0].model_comparisons[0]["step_ratio_ci95"]
    alone, pooled = pool(runs)
    assert alone["time_ratio_ci95"] == interval
    assert pooled["time_ratio_ci95"] not in [run.model_comparisons[0]["step_ratio_ci95"] for run in runs]
    low, high = (ratio(end) for end in interval)
    section = sessions.section(runs)
    assert f"([{low}, {high}], 95% interval within one session, so nothing is known" in section.sentences[0]
    assert section.title.endswith("; of one session, that within it)")
    text, keys = first_screen(runs)
    assert {"sessions.0.time_ratio_ci95.0", "sessions.0.time_ratio_ci95.1"} <= keys
    assert f"{low} to {high} holds".replace("x", "") in text
    assert "holds the ratio of times with 95% confidence, within one session" in text
    assert f"[{low}, {high}]".replace("x", "") in latex_table(runs, "ratios")
    drawn = tmp_path / "ratios.svg"
    draw_ratios(pool(runs), drawn)
    assert "<!-- hollow: one session, interval within it -->" in drawn.read_text()


def test_headings_of_the_page_s_charts_have_the_pooled_ratios(tmp_path: Path) -> None:
    page = page_of([session(tmp_path, ratio, "EPYC", 10**9) for ratio in (16.0, 25.0)])
    heading = re.search(r'id="step-times">\s*<h2>(.*?)</h2>', page, re.DOTALL)
    assert heading
    assert "sessions.0.time_ratio" in heading[1]
    text = " ".join(re.sub(r"<.*?>", "", heading[1]).replace("\u00a0", " ").split())
    assert text == "alexnet's step takes 20.0 times as long as squeezenet's under ddp at 1.00 Gbit/s"
    assert 'id="bytes">\n<h2>alexnet sends <data data-key="sessions.0.bytes_ratio"' in page


def varied(root: Path) -> MeasuredRun:
    """A session of both models with small and with large buckets; only alexnet's step tells these apart."""
    cells = [
        cell(model, cell=f"{model}-ddp-w2-bucket{size}", bucket_mb=size)
        for size in (1, 25)
        for model in ("squeezenet", "alexnet")
    ]
    walls = {"squeezenet": {1: 1.0, 25: 1.0}, "alexnet": {1: 4.0, 25: 2.0}}
    records = [row for of in cells for row in steps(of, [walls[of["model"]][of["bucket_mb"]]] * 6)]
    return MeasuredRun(open_run(write_run(root, cells, records)))


def test_pooled_comparisons_of_varied_cells_name_what_was_varied(tmp_path: Path) -> None:
    runs = [varied(tmp_path), varied(tmp_path)]
    of_models = {row["settings"]: row["time_ratio"] for row in pool(runs) if row["kind"] == "models"}
    assert of_models == {"bucket_mb=1": pytest.approx(4.0), "bucket_mb=25": pytest.approx(2.0)}
    section = sessions.section(runs)
    assert section.columns[:4] == ("kind", "other", "base", "settings")
    assert "Over 2 sessions, with 2 workers under ddp (bucket_mb=25), squeezenet" in " ".join(
        section.sentences
    )
    assert "bucket_mb=25" in first_screen(runs)[0]
    assert re.search(
        r"multicolumn.*mb=\\allowbreak\{\}25.*\n.*all-reduce & -- &.*2.00", latex_table(runs, "ratios")
    )
    drawn = tmp_path / "ratios.svg"
    draw_ratios(pool(runs), drawn)
    assert "<!-- step time, ddp (bucket_mb=25) -->" in drawn.read_text()


def test_comparisons_of_an_option_s_values_are_pooled(tmp_path: Path) -> None:
    runs = [varied(tmp_path), varied(tmp_path)]
    row = next(row for row in pool(runs) if row["kind"] == "options" and "alexnet" in row["base"])
    assert (row["base"], row["other"]) == ("alexnet bucket_mb=1", "alexnet bucket_mb=25")
    assert (row["time_ratio"], row["sessions"], row["settings"]) == (pytest.approx(0.5), 2, None)
    assert sentences_of("option_comparisons", runs) == []
    assert any(
        "alexnet bucket_mb=25's step takes 0.500x the time" in line for line in sentences_of("sessions", runs)
    )


def test_cells_of_one_run_are_never_taken_for_two_sessions(tmp_path: Path) -> None:
    cells = [
        cell(model, cell=f"{model}-ddp-w2-steps{number}", steps=number)
        for number in (6, 12)
        for model in ("squeezenet", "alexnet")
    ]
    path = write_run(tmp_path, cells, [row for of in cells for row in steps(of, [1.0] * of["steps"])])
    assert pool([MeasuredRun(open_run(path))]) == []


def test_cells_without_an_option_are_told_apart_from_cells_with_it(tmp_path: Path) -> None:
    cells = [*of_both("ddp"), *({**of, "cell": f"{of['cell']}-b", "bucket_mb": 5} for of in of_both("ddp"))]
    rows = pool([session_of(tmp_path, *cells), session_of(tmp_path, *cells)])
    assert [row["settings"] for row in rows if row["kind"] == "models"] == ["bucket_mb=none", "bucket_mb=5"]
