from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from handmade_runs import cell, link, push, step, steps, transfer, update, write_run
from pages import Element, Page, page_of_run, shows, value_at
from test_shipments import record, written

from distsqz.cli import report
from distsqz.errors import RequestError
from distsqz.runs.writer import FAILED, INTERRUPTED, RUNNING

NAMES = {"name", "tick", "run-id", "label"}
"""Classes of elements whose digits belong to names, or are marks of a scale."""


def pair(**entries: Any) -> list[dict[str, Any]]:
    return [cell(model, **entries) for model in ("squeezenet", "alexnet")]


def measured(cells: list[dict[str, Any]], factor: float = 3.0) -> list[Any]:
    """Steps and transfers, the i-th cell's step `factor` times as long as that of the one before."""
    records: list[Any] = []
    for index, of in enumerate(cells):
        records += steps(of, [factor**index * wall for wall in (1.0, 1.1, 0.9, 1.0, 1.05, 0.95)])
        records += [
            transfer(of, rank, number, 0.3, 0.7 * factor**index)
            for rank in range(of["world_size"])
            for number in range(1, 5)
        ]
    return records


def many(number: int) -> list[dict[str, Any]]:
    """Cells of both models that differ in the size of their buckets."""
    return [
        cell(model, cell=f"{model}-ddp-w2-bucket_mb={size}-precision=fp32", bucket_mb=size)
        for size in range(1, number // 2 + 1)
        for model in ("squeezenet", "alexnet")
    ]


def served(of: dict[str, Any]) -> list[Any]:
    return [
        record
        for rank in range(of["world_size"])
        for number in range(1, 5)
        for bucket in range(2)
        for record in (push(of, rank, number, bucket, 1000), update(of, rank, number, bucket))
    ]


def write(root: Path, kind: str) -> Path:
    """A run of each kind that a page has to show."""
    if kind == "empty":
        return write_run(root, [])
    if kind == "nothing measured":
        return write_run(root, pair(), status=RUNNING)
    if kind == "one cell":
        return write_run(root, pair()[:1], measured(pair()[:1]))
    if kind == "two cells":
        links = [link(0, 1, 118e6), link(1, 0, 119e6, rtt_us=37)]
        return write_run(root, pair(), [*measured(pair()), *links])
    if kind == "interrupted":
        return write_run(root, pair(), measured(pair()[:1]), status=INTERRUPTED)
    if kind == "failed":
        records = [step(pair()[0], rank, 1) for rank in (0, 1)]
        return write_run(root, pair(), records, status=FAILED, error={"text": "rank 1 <died> & rested"})
    if kind == "parameter server":
        of = cell("squeezenet", cell="squeezenet-ps-w2", strategy="ps", servers=2, block_steps=2,
                  consistency="sync", placement="colocated")  # fmt: skip
        return write_run(root, [*pair(), of], [*measured(pair()), *steps(of, [1.0] * 6), *served(of)])
    assert kind == "forty cells"
    return write_run(root, many(40), measured(many(40), factor=1.05))


KINDS = [
    "empty", "nothing measured", "one cell", "two cells", "interrupted", "failed", "parameter server",
    "forty cells",
]  # fmt: skip


def write_sessions(root: Path) -> list[Path]:
    """Two sessions at one rate, one where a host's link is slower, one over links that were only measured."""
    links = [link(0, 1, 118e6)]
    paths = []
    for rates in ((10**9, 10**9), (10**9, 10**9), (10**9, 10**8), None, None):
        entries = {"emulated_rate_bits_per_s": dict(zip("ab", rates, strict=True)) if rates else None}
        cells = pair(**entries)
        server = cell(cell="squeezenet-ps-w2", strategy="ps", servers=2, server_hosts=["a", "b"],
                      consistency="sync", **entries)  # fmt: skip
        alone = {**cells[0], "cell": "alone", "strategy": "alone", "world_size": 1, "hosts": ["a"]}
        records = [*measured(cells), *steps(server, [1.5] * 6), *served(server), *steps(alone, [0.4] * 6)]
        paths.append(write_run(root, [*cells, server, alone], [*records, *links]))
    return paths


@pytest.fixture(scope="module", params=[*KINDS, "sessions"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Page:
    root = tmp_path_factory.mktemp("runs")
    return page_of_run(
        *(write_sessions(root) if request.param == "sessions" else [write(root, request.param)])
    )


def page_of_kind(root: Path, kind: str) -> Page:
    return page_of_run(write(root, kind))


def test_every_number_equals_the_json_value_of_its_key_at_the_shown_precision(page: Page) -> None:
    for element in page.keyed():
        key = str(element.attributes["data-key"])
        value = value_at(page.document, key)
        assert shows(element.text(), value, key), (key, value, element.text())
        if element.tag == "data":
            assert float(str(element.attributes["value"])) == value


def test_no_digit_of_a_finding_or_figure_lacks_a_key(page: Page) -> None:
    def unkeyed(element: Element) -> str:
        own = str(element.attributes.get("class", "")).split()
        if "data-key" in element.attributes or NAMES & {*own} or element.tag in ("title", "desc", "th"):
            return ""
        return "".join(each if isinstance(each, str) else unkeyed(each) for each in element.children)

    explained = re.compile(r"95%|All \d+ (cells|comparisons)|first \d+ (cells|of \d+ ranks)")
    for section in page.root.all("section"):
        if section.attributes["class"] in ("findings", "chart"):
            text = explained.sub("", unkeyed(section))
            for name in (entry["cell"] for entry in page.document["cells"]):
                text = text.replace(name, "")
            assert not re.search(r"\d", text), re.findall(r".{30}\d.{30}", text)


def test_the_page_asks_for_nothing(page: Page) -> None:
    for element in page.root.all():
        for name in ("src", "href", "srcset", "action", "data"):
            address = element.attributes.get(name)
            assert address is None or address.startswith(("data:", "#")), (element.tag, address)
        assert element.tag != "script"
    assert "@import" not in page.html
    assert "url(" not in page.html


def test_every_figure_has_a_text_alternative(page: Page) -> None:
    ids = [each.attributes["id"] for each in page.root.all() if "id" in each.attributes]
    assert len(ids) == len(set(ids))
    for svg in page.root.all("svg"):
        assert svg.attributes["role"] == "img"
        names = str(svg.attributes["aria-labelledby"]).split()
        title, desc = (page.root.all(id=name)[0] for name in names)
        assert (title.tag, desc.tag) == ("title", "desc")
        assert title.text() and desc.text()


def test_every_cell_is_drawn_and_listed(page: Page) -> None:
    for figure in ("bytes", "step-times", "shares"):
        for section in page.root.all("section", id=figure):
            for svg in section.all("svg"):
                assert len(svg.all("text", **{"class": "label"})) == len(page.document["cells"])
    for table in page.root.all("section", id="section-cells"):
        assert len(table.all("tr")) == 1 + len(page.document["cells"])


def test_labels_of_ticks_have_room(page: Page) -> None:
    for svg in page.root.all("svg"):
        ends = [0.0]
        for tick in svg.all("text", **{"class": "tick"}):
            width = 6.5 * len(tick.text())
            left_of_x = {"start": 0.0, "middle": 0.5, "end": 1.0}[str(tick.attributes["text-anchor"])]
            start = float(str(tick.attributes["x"])) - left_of_x * width
            assert start >= ends[-1], tick.text()
            ends.append(start + width)
        assert ends[-1] <= float(str(svg.attributes["viewbox"]).split()[2])


def test_the_page_is_small(page: Page) -> None:
    assert len(page.html.encode()) < 3_000_000


def test_two_models_are_answered_on_the_first_screen(tmp_path: Path) -> None:
    page = page_of_kind(tmp_path, "two cells")
    (findings,) = page.root.all("section", **{"class": "findings"})
    text = " ".join(findings.text().replace("\u00a0", " ").split())
    assert "48.9 times less 4.99 MB against 244 MB that a worker sends in a step, counted by TCP" in text
    assert "3.00 times less 1.00 s against 3.00 s for a step" in text
    assert "3.00 to 3.00 holds the ratio of times with 95% confidence, by 6 pairs of blocks" in text


def test_a_figures_title_is_its_finding(tmp_path: Path) -> None:
    page = page_of_kind(tmp_path, "two cells")
    titles = [
        section.all("h2")[0].text().strip() for section in page.root.all("section", **{"class": "chart"})
    ]
    titles = [" ".join(title.replace("\u00a0", " ").split()) for title in titles]
    assert titles == [
        "alexnet sends 48.9 times the bytes of squeezenet under ddp",
        "alexnet's step takes 3.00 times as long as squeezenet's under ddp",
        "Exposed communication takes 40.0% of the time of every cell",
        "The slowest link, h0 to h1, carries 944 Mbit/s",
        "Two steps of every rank: when it computes, when it sends, when it waits",
    ]


def test_a_parameter_servers_bytes_are_those_that_a_worker_sends_and_those_that_servers_send(
    tmp_path: Path,
) -> None:
    page = page_of_kind(tmp_path, "parameter server")
    (svg, _) = page.root.all("section", id="bytes")[0].all("svg")
    keys = [each.attributes["data-key"] for each in svg.all("tspan")]
    assert keys == [
        "cells.0.tcp_tx_bytes", "cells.1.tcp_tx_bytes", "cells.2.tcp_tx_bytes", "cells.2.tcp_rx_bytes",
    ]  # fmt: skip
    dots = [float(str(each.attributes["cx"])) for each in svg.all("circle")]
    assert dots[0] < dots[2] < dots[1]  # 4.99 MB, twice that, 244 MB


def test_a_figures_csv_has_its_data(tmp_path: Path) -> None:
    page = page_of_kind(tmp_path, "two cells")
    files = {
        each.attributes["download"]: str(each.attributes["href"])
        for each in page.root.all("a", **{"class": "csv"})
    }
    assert list(files) == [
        "bytes.csv", "step-times.csv", "shares.csv", "links.csv",
        "timeline-squeezenet-ddp-w2.csv", "timeline-alexnet-ddp-w2.csv",
    ]  # fmt: skip
    tables = {}
    for name, address in files.items():
        head, _, text = address.partition(",")
        assert head == "data:text/csv;charset=utf-8"
        tables[name] = list(csv.DictReader(io.StringIO(unquote(text))))
    assert [float(row["tcp_tx_bytes"]) for row in tables["bytes.csv"]] == [4_994_196, 244_403_860]
    shares = [value for name, value in tables["shares.csv"][0].items() if name.endswith("_share")]
    assert sum(map(float, shares)) == pytest.approx(1.0)
    assert {row["goodput_bytes_per_s"] for row in tables["links.csv"]} == {"118000000.0", "119000000.0"}
    assert {row["what"] for row in tables["timeline-alexnet-ddp-w2.csv"]} >= {"exposed_comm", "transfer"}


def test_text_of_a_run_cannot_end_an_element(tmp_path: Path) -> None:
    page = page_of_kind(tmp_path, "failed")
    assert "rank 1 &lt;died&gt; &amp; rested" in page.html
    assert "<died>" not in page.html


def labels(page: Page, figure: str) -> list[str]:
    """The labels of the rows of a figure, as it is drawn for screens."""
    svg = page.root.all("section", id=figure)[0].all("svg")[0]
    return [each.all("title")[0].text() if each.all("title") else each.text()
            for each in svg.all("text", **{"class": "label"})]  # fmt: skip


def test_cells_of_several_runs_are_told_apart(tmp_path: Path) -> None:
    page = page_of_run(*(write(tmp_path, "one cell") for _ in range(2)))
    assert labels(page, "bytes") == [f"squeezenet-ddp-w2 (session {number})" for number in (1, 2)]


RUN_LABELS = [
    "1 Gbit/s, session 1",
    "1 Gbit/s, session 2",
    "1 Gbit/s, 100 Mbit/s",
    "links of no set rate, session 1",
    "links of no set rate, session 2",
]


def test_runs_are_called_by_rates_and_sessions_wherever_they_are_named(tmp_path: Path) -> None:
    paths = write_sessions(tmp_path)
    page = page_of_run(*paths)
    header = [" ".join(each.text().split()) for each in page.root.all("p", **{"class": "run"})]
    for line, label, path in zip(header, RUN_LABELS, paths, strict=True):
        assert line.startswith(f"{label}: {path.name} complete")
    assert labels(page, "step-times")[::3] == [f"squeezenet-ddp-w2 ({label})" for label in RUN_LABELS]
    assert sorted(labels(page, "links")) == sorted(f"h0 to h1 ({label})" for label in RUN_LABELS)


def test_the_contents_of_several_runs_lead_to_their_timelines_and_tables(tmp_path: Path) -> None:
    page = page_of_run(*write_sessions(tmp_path))
    (contents,) = page.root.all("nav")
    links = {each.text(): str(each.attributes["href"]) for each in contents.all("a")}
    for text, address in links.items():
        (target,) = page.root.all(id=address.removeprefix("#"))
        if text.startswith("Timeline of "):
            assert text.removeprefix("Timeline of ") in target.all("title")[0].text()
    assert "Timeline of alexnet-ddp-w2 (1 Gbit/s, session 2)" in links
    assert not page_of_kind(tmp_path, "two cells").root.all("nav")


def test_all_timelines_share_one_axis(tmp_path: Path) -> None:
    page = page_of_run(*write_sessions(tmp_path))
    drawings = page.root.all("section", id="timelines")[0].all("svg", **{"class": "wide"})
    axes = [
        [(each.text(), each.attributes["x"]) for each in svg.all("text", **{"class": "tick"})]
        for svg in drawings
    ]
    assert len(axes) == 8
    assert all(axis == axes[0] for axis in axes)


def test_what_holds_for_several_runs_is_written_once(tmp_path: Path) -> None:
    paths = write_sessions(tmp_path)
    page = page_of_run(*paths)
    (section,) = page.root.all("section", id="notes")
    notes = [each.text() for each in section.all("li")]
    assert len(notes) == len(set(notes))
    trained = [note for note in notes if "Trained with 2 workers" in note]
    assert trained == ["Trained with 2 workers, 16 a worker a step, compute threads a worker: 1."]


@pytest.mark.parametrize("strategy", ["ddp", "ps"])
def test_a_single_cell_says_what_takes_its_time(tmp_path: Path, strategy: str) -> None:
    servers = {"servers": 2, "server_hosts": ["a", "b"]} if strategy == "ps" else {}
    of = cell(cell=f"squeezenet-{strategy}-w2", strategy=strategy, **servers)
    page = page_of_run(write_run(tmp_path, [of], [*measured([of]), link(0, 1, 118e6)]))
    (findings,) = page.root.all("section", **{"class": "findings"})
    (why,) = findings.all("p", **{"class": "about why"})
    text = " ".join(why.text().replace("\u00a0", " ").split())
    assert text.startswith("In a step the busiest host's link must carry 4.99 MB in one direction; before")
    row = page.document["cells"][0]
    assert row["host_link_bytes"] / row["goodput_bytes_per_s"] == pytest.approx(row["bound_s"], rel=0.01)
    assert f"The links need at least {page.number('cells.0.bound_s')} of the step's 1.00 s for it." in text
    assert "Computation limits it." in text or row["comm_share"] + (row["wait_share"] or 0) >= 0.5


def test_runs_that_shipped_have_a_page_of_tables(tmp_path: Path) -> None:
    page = page_of_run(written(tmp_path, [record(0, 0.2), record(1, 0.5)]).path)
    assert page.root.all("h1")[0].text() == "What shipping costs"
    assert page.number("shipments.0.last_client_s") == "500 ms"
    for element in page.keyed():
        key = str(element.attributes["data-key"])
        assert shows(element.text(), value_at(page.document, key), key)


def test_the_option_writes_the_page_and_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, path = write(tmp_path, "one cell"), tmp_path / "page.html"
    report.main(report.Options(run=(str(run),), html=path))
    assert path.read_text().startswith("<!DOCTYPE html>")
    assert capsys.readouterr().err == f"page: {path}\n"


def test_a_page_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    run, path = write(tmp_path, "one cell"), tmp_path / "nowhere" / "page.html"
    with pytest.raises(RequestError, match=f"--html {path}: cannot be written"):
        report.main(report.Options(run=(str(run),), html=path))
