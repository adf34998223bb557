"""What a run of launch/deploy.py is said to have cost, against figures worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.shipments import is_deployment, read_shipments, shipments_report
from distsqz.metering.schema import ShipmentRecord
from distsqz.runs import Run, RunWriter

MBIT = 10**6


def record(client: int, transfer_s: float, **changes: Any) -> ShipmentRecord:
    """A file of ten full frames at a client."""
    fields: dict[str, Any] = {
        "cell": "m",
        "model": "m",
        "client": client,
        "host": f"h{client + 2}",
        "file_bytes": 14_480,
        "t_start_ns": 0,
        "transfer_s": transfer_s,
        "rebuild_s": None,
        "resumed": 0,
        "resent": 0,
        "tcp_rx_bytes": 14_496,
        "tcp_retrans_bytes": 0,
        "wire_rx_bytes": 15_140,
        "wire_tx_bytes": 400,
        "wire_rx_packets": 10,
        "wire_tx_packets": 6,
    }
    return ShipmentRecord(**{**fields, **changes})


def written(root: Path, records: list[ShipmentRecord], head_mbit: int = 1000, **facts: Any) -> Run:
    """A run of two clients at 10 Mbit/s."""
    cell = {
        "cell": "m",
        "kind": "shipment",
        "model": "m",
        "form": "file",
        "file_bytes": 14_480,
        "clients": 2,
        "hosts": ["h2", "h3"],
        "head_host": "h1",
        "emulated": True,
        "emulated_rate_bits_per_s": {"h1": head_mbit * MBIT, "h2": 10 * MBIT, "h3": 10 * MBIT},
        "head_wire_tx_bytes": 31_000,
        **facts,
    }
    with RunWriter.create(root, "deploy", [], {}, [cell]) as writer:
        writer.append("shipments", records)
    return Run(writer.path)


def test_bytes_and_times_are_held_against_what_links_must_take(tmp_path: Path) -> None:
    run = written(tmp_path, [record(0, 0.02), record(1, 0.03, resumed=1)])
    assert is_deployment(run)
    (row,) = read_shipments(run)
    assert row["wire_vs_file"] == pytest.approx(1514 / 1448)
    assert row["wire_vs_predicted"] == pytest.approx(0)
    assert row["head_wire_bytes"] == 15_500
    assert row["bottleneck"] == "clients"
    assert row["bound_s"] == pytest.approx(15_140 * 8 / 1e7)
    assert row["last_client_s"] == pytest.approx(0.03)
    assert row["median_client_s"] == pytest.approx(0.025)
    assert row["clients_per_min"] == pytest.approx(4000)
    assert (row["resumed"], row["resent"]) == (1, 0)


def test_a_head_that_is_the_bottleneck_is_named(tmp_path: Path) -> None:
    run = written(tmp_path, [record(0, 0.03), record(1, 0.03)], head_mbit=10)
    (row,) = read_shipments(run)
    assert row["bound_s"] == pytest.approx(2 * 15_140 * 8 / 1e7)
    assert "the head's link is the bottleneck" in shipments_report([run], "table")


def test_an_update_takes_its_rebuilding_too(tmp_path: Path) -> None:
    (row,) = read_shipments(
        written(tmp_path, [record(0, 0.02, rebuild_s=0.5), record(1, 0.02, rebuild_s=0.1)])
    )
    assert row["last_client_s"] == pytest.approx(0.52)


def test_clients_that_share_a_link_share_its_rate(tmp_path: Path) -> None:
    run = written(tmp_path, [record(0, 0.03), record(1, 0.03)], hosts=["h2", "h2"])
    assert read_shipments(run)[0]["bound_s"] == pytest.approx(2 * 15_140 * 8 / 1e7)


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
