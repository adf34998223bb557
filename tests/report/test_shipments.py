"""What a run of launch/deploy.py is said to have cost, against figures worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distsqz import open_run
from distsqz.metering.schema import TABLES, ShipmentRecord
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.report import read_sections, render_report
from distsqz.report.section import Format
from distsqz.report.shipments import is_deployment, read_shipments
from distsqz.runs.reader import Run
from distsqz.runs.writer import COMPLETE, FAILED, INTERRUPTED, RUNNING, RunWriter

MBIT = 10**6


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal in which no sentence is wrapped."""
    monkeypatch.setenv("COLUMNS", "10000")


def shipments_report(runs: list[Run], fmt: Format) -> str:
    measured = [MeasuredRun(run) for run in runs]
    return render_report(measured, read_sections(measured), fmt)


FILE_BYTES, WIRE_BYTES = 144_800, 151_400
"""A file of a hundred full frames, and those."""
BURST_BYTES = 15_140
"""Bytes that pass a link of 10 Mbit/s at once: ten frames."""


def record(client: int, transfer_s: float, **changes: Any) -> ShipmentRecord:
    """The file at a client."""
    fields: dict[str, Any] = {
        "cell": "m",
        "model": "m",
        "client": client,
        "host": f"h{client + 2}",
        "file_bytes": FILE_BYTES,
        "t_start_ns": 0,
        "transfer_s": transfer_s,
        "rebuild_s": None,
        "resumed": 0,
        "resent": 0,
        "tcp_rx_bytes": FILE_BYTES + 16,
        "tcp_retrans_bytes": 0,
        "wire_rx_bytes": WIRE_BYTES,
        "wire_tx_bytes": 400,
        "wire_rx_packets": 100,
        "wire_tx_packets": 60,
    }
    return ShipmentRecord(**{**fields, **changes})


def written(
    root: Path,
    records: list[ShipmentRecord],
    head_mbit: float = 1000,
    status: str = COMPLETE,
    **facts: Any,
) -> Run:
    """A run of two clients at 10 Mbit/s."""
    cell = {
        "cell": "m",
        "kind": "shipment",
        "model": "m",
        "form": "file",
        "file_bytes": FILE_BYTES,
        "clients": 2,
        "hosts": ["h2", "h3"],
        "head_host": "h1",
        "emulated": True,
        "emulated_rate_bits_per_s": {"h1": head_mbit * MBIT, "h2": 10 * MBIT, "h3": 10 * MBIT},
        "head_wire_tx_bytes": 310_000,
        **facts,
    }
    writer = RunWriter.create(root, "deploy", [], {}, [cell], tables=TABLES)
    writer.append("shipments", records)
    writer.finish(status)
    return open_run(writer.path)


def test_bytes_and_times_are_held_against_what_links_must_take(tmp_path: Path) -> None:
    run = written(tmp_path, [record(0, 0.2), record(1, 0.3, resumed=1)])
    assert is_deployment(run)
    (row,) = read_shipments(run)
    assert row["wire_vs_file"] == pytest.approx(1514 / 1448)
    assert row["wire_vs_predicted"] == pytest.approx(0)
    assert row["head_wire_bytes"] == 155_000
    assert row["bottleneck"] == "clients"
    assert row["bound_s"] == pytest.approx((WIRE_BYTES - BURST_BYTES) * 8 / 1e7)
    assert row["last_client_s"] == pytest.approx(0.3)
    assert row["last_vs_bound"] == pytest.approx(0.3 / 0.109008)
    assert row["median_client_s"] == pytest.approx(0.25)
    assert row["clients_per_min"] == pytest.approx(400)
    assert (row["resumed"], row["resent"]) == (1, 0)
    assert "Warning" not in shipments_report([run], "table")


def test_a_head_that_is_the_bottleneck_is_named(tmp_path: Path) -> None:
    run = written(tmp_path, [record(0, 0.3), record(1, 0.3)], head_mbit=10)
    (row,) = read_shipments(run)
    assert row["bound_s"] == pytest.approx((2 * WIRE_BYTES - BURST_BYTES) * 8 / 1e7)
    assert "the head's link is the bottleneck, which carries 2 copies" in shipments_report([run], "table")


def test_an_update_takes_its_rebuilding_too(tmp_path: Path) -> None:
    (row,) = read_shipments(written(tmp_path, [record(0, 0.2, rebuild_s=0.5), record(1, 0.2, rebuild_s=0.1)]))
    assert row["last_client_s"] == pytest.approx(0.7)


def test_clients_that_share_a_link_share_its_rate_and_its_bucket(tmp_path: Path) -> None:
    run = written(tmp_path, [record(0, 0.3), record(1, 0.3)], hosts=["h2", "h2"])
    assert read_shipments(run)[0]["bound_s"] == pytest.approx((2 * WIRE_BYTES - BURST_BYTES) * 8 / 1e7)


def test_clients_on_the_head_s_host_have_no_bound_and_no_link_is_spoken_of(tmp_path: Path) -> None:
    run = written(tmp_path, [record(0, 0.001), record(1, 0.001)], hosts=["h1", "h1"])
    (row,) = read_shipments(run)
    assert row["bound_s"] is row["bottleneck"] is row["last_vs_bound"] is row["head_wire_bytes"] is None
    assert row["last_client_s"] == pytest.approx(0.001)
    text = shipments_report([run], "table")
    assert "times show this machine and no link" in text
    assert "shaped" not in text


def test_a_client_beside_the_head_takes_no_link_but_the_others_do(tmp_path: Path) -> None:
    run = written(tmp_path, [record(0, 0.001), record(1, 0.2)], hosts=["h1", "h3"], head_mbit=10)
    (row,) = read_shipments(run)
    assert row["bound_s"] == pytest.approx((WIRE_BYTES - BURST_BYTES) * 8 / 1e7)
    assert row["head_wire_bytes"] == 310_000
    text = shipments_report([run], "table")
    assert "1 of 2 clients share the head's host and take no link." in text
    assert "the head's link shaped to 10mbit, the clients' to 10mbit each way" in text


def test_a_file_that_fits_the_buckets_has_a_bound_of_0_and_no_bottleneck(tmp_path: Path) -> None:
    run = written(tmp_path, [record(0, 0.001), record(1, 0.001)], file_bytes=1448)
    (row,) = read_shipments(run)
    assert (row["bound_s"], row["bottleneck"], row["last_vs_bound"]) == (0, None, None)
    assert "Warning" not in shipments_report([run], "table")


def test_a_time_below_its_bound_is_doubted(tmp_path: Path) -> None:
    run = written(tmp_path, [record(0, 0.1), record(1, 0.1)])
    warning = "Warning: the last copy of m arrived after 100.0 ms, below its bound of 109.0 ms"
    assert warning in shipments_report([run], "table")
    (entry,) = json.loads(shipments_report([run], "json"))["runs"]
    assert entry["warnings"][0].startswith(warning)
    nearly = written(tmp_path / "nearly", [record(0, 0.107), record(1, 0.107)])
    assert "Warning" not in shipments_report([nearly], "table")


@pytest.mark.parametrize("status", [COMPLETE, FAILED, INTERRUPTED, RUNNING])
def test_a_model_that_reached_some_clients_only_has_no_figures(tmp_path: Path, status: str) -> None:
    run = written(tmp_path, [record(0, 0.2)], status=status)
    (row,) = read_shipments(run)
    assert row["arrived"] == 1
    measured = ("tcp_bytes", "wire_bytes", "wire_vs_file", "head_wire_bytes", "wire_back_bytes", "rebuild_s")
    measured += ("tcp_retrans_bytes", "last_client_s", "last_vs_bound", "median_client_s", "clients_per_min")
    assert {row[name] for name in (*measured, "resumed", "resent")} == {None}
    assert row["bound_s"] is not None
    text = shipments_report([run], "table")
    assert "Warning: 1 of 2 copies of m have arrived; it has no figures." in text
    assert ("The run is" in text) == (status != COMPLETE)


def test_a_host_whose_rate_is_not_known_leaves_the_bound_unknown(tmp_path: Path) -> None:
    run = written(tmp_path, [record(0, 0.2), record(1, 0.2)], hosts=["h2", "renamed"])
    assert read_shipments(run)[0]["bound_s"] is None
    assert "the rates of the links are not known" in shipments_report([run], "table")


def test_what_is_not_known_is_null_and_a_run_without_arrivals_is_readable(tmp_path: Path) -> None:
    unknown = {"wire_rx_bytes": None, "wire_tx_bytes": None}
    run = written(
        tmp_path, [record(0, 0.02, **unknown), record(1, 0.02)], emulated=False, emulated_rate_bits_per_s=None
    )
    (row,) = read_shipments(run)
    assert row["wire_bytes"] is row["bound_s"] is row["bottleneck"] is None
    nothing = written(tmp_path / "nothing", [])
    (row,) = json.loads(shipments_report([nothing], "json"))["shipments"]
    assert (row["arrived"], row["last_client_s"], row["clients_per_min"]) == (0, None, None)
    for fmt in ("table", "markdown", "csv", "latex"):
        assert shipments_report([nothing], fmt)
