"""analysis/footprint.py: what models need, what devices have, what fits."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from distsqz.cli.footprint import (
    DEVICES,
    Footprint,
    Options,
    archive_footprint,
    devices,
    footprints,
    main,
    verdict,
    weights_bytes,
)
from distsqz.errors import RequestError
from distsqz.models.squeezenet import SqueezeNet
from distsqz.report.section import Format
from distsqz.weights.archive import write_archive
from distsqz.weights.quantised import CompressedModel, ModelInfo, Quantised

SCRIPT = Path(__file__).parents[2] / "analysis" / "footprint.py"
SQUEEZENET = Options(models=("squeezenet",))
SMALL = Options(image_size=64, num_classes=10)


def test_weights_are_the_published_bytes_and_int8_keeps_biases_in_32_bits() -> None:
    fp32, fp16, int8 = footprints("squeezenet", SQUEEZENET)
    assert (fp32.weights_bytes, fp16.weights_bytes) == (4_993_696, 2_496_848)
    biases = 96 + 2 * (16 + 128) + 2 * (32 + 256) + 2 * (48 + 384) + 2 * (64 + 512) + 1000
    assert int8.weights_bytes == 1_248_424 + 3 * biases


def test_activations_are_those_around_pool1_and_a_total_has_all_of_them() -> None:
    fp32, _, int8 = footprints("squeezenet", SQUEEZENET)
    values = 96 * 109 * 109 + 96 * 54 * 54
    assert (fp32.activation_bytes, int8.activation_bytes) == (4 * values, values)
    assert (fp32.activation_peak, fp32.total_bytes) == ("pool1", 4_993_696 + 4 * values)
    assert fp32.im2col_bytes == 4 * 3 * 7 * 7 * 109 * 109
    assert fp32.row_im2col_bytes == 4 * 3 * 7 * 7 * 109


def test_an_archive_counts_as_its_file_and_one_decoded_layer(tmp_path: Path) -> None:
    archive = tmp_path / "m.sqz"
    state = SqueezeNet().state_dict()
    zeros = {name: Quantised(np.zeros(tensor.shape, np.int32)) for name, tensor in state.items()}
    written = write_archive(archive, CompressedModel(ModelInfo(name="squeezenet", num_classes=1000), zeros))
    row = archive_footprint(archive, SQUEEZENET)
    assert (row.model, row.weights, row.weights_bytes) == ("squeezenet", "archive", written)
    assert row.decode_bytes == 513_000  # conv10, the largest
    with pytest.raises(RequestError, match="is of squeezenet; name that in --models"):
        archive_footprint(archive, replace(SQUEEZENET, models=("alexnet",)))
    assert row.total_bytes == written + 513_000 + 96 * 109 * 109 + 96 * 54 * 54


@pytest.mark.parametrize(
    ("model", "weights_bytes", "row_im2col_bytes", "total_bytes"),
    [
        # conv's maps beside their sum with the table
        ("WithTable", 4 * 314 + 131_072, 4 * 27 * 64, 394_472),
        # conv's maps beside their normalised copy
        ("Normalised", 10_536, 4 * 27 * 32, 10_536 + 2 * 4 * 64 * 32 * 32),
        # the image, conv's maps, and a row of im2col
        ("Functional", 4 * 296, 3_456, 4 * 296 + 4 * (3 * 64 * 64 + 8 * 32 * 32) + 3_456),
    ],
)
def test_buffers_are_weights_and_functional_convolutions_unfold(
    model: str, weights_bytes: int, row_im2col_bytes: int, total_bytes: int
) -> None:
    fp32, *_ = footprints(f"tests.models.unusual_models:{model}", SMALL)
    assert (fp32.weights_bytes, fp32.row_im2col_bytes, fp32.total_bytes) == (
        weights_bytes,
        row_im2col_bytes,
        total_bytes,
    )


def test_integers_keep_their_size_at_every_precision() -> None:
    indices = torch.zeros(5, dtype=torch.int64)
    assert {weights_bytes([indices], precision) for precision in ("fp32", "fp16", "int8")} == {40}


@pytest.mark.parametrize("fmt", ["json", "csv", "table", "markdown", "latex"])
def test_what_is_not_understood_is_named_and_never_zero(
    fmt: Format, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "tests.models.unusual_models:Attention"
    main(replace(SMALL, models=(name,), precisions=("fp32",), format=fmt))
    printed = capsys.readouterr()
    assert "activations and workspace are unknown; attention (multiplies matrices 4 times)" in printed.err
    if fmt == "json":
        result = json.loads(printed.out)
        (row,) = result["footprints"]
        assert row["weights_bytes"] == 4 * 66_506
        unknown = ("activation_bytes", "activation_peak", "im2col_bytes", "row_im2col_bytes", "total_bytes")
        assert [row[key] for key in unknown] == [None] * 5
        assert row["not_understood"] == ["attention (multiplies matrices 4 times)"]
        for fit in result["fits"]:
            room = max(fit["on_chip_bytes"], fit["flash_bytes"] or 0)
            assert fit["fits"] == (None if room >= row["weights_bytes"] else "no")
    if fmt == "csv":
        assert all(row["total_bytes"] == "" for row in csv.DictReader(printed.out.splitlines()))


def test_every_device_has_a_source_and_the_bytes_of_what_it_is_made_of() -> None:
    table = devices()
    assert len(table) >= 17
    assert table["device"].is_unique
    assert table["source"].str.len().min() > 10
    assert set(table["kind"]) == {"FPGA", "microcontroller"}
    for device in table.to_dict("records"):
        parts = re.findall(r"(\d+) x (\d+) Kbit", device["made_of"])
        assert device["on_chip_bytes"] == sum(int(n) * int(kbit) * 128 for n, kbit in parts) > 0
        assert pd.isna(device["flash_bytes"]) or device["flash_bytes"] > 0


@pytest.mark.parametrize(
    ("on_chip_bytes", "flash_bytes", "expected"),
    [(150, pd.NA, "all"), (149, pd.NA, "weights"), (50, 100, "flash"), (49, 100, "weights"), (99, 99, "no")],
)
def test_verdicts_change_at_the_last_byte(on_chip_bytes: int, flash_bytes: object, expected: str) -> None:
    need = Footprint(
        model="m",
        weights="int8",
        image_size=1,
        weights_bytes=100,
        activation_bytes=50,
        activation_peak="conv",
        im2col_bytes=0,
        row_im2col_bytes=0,
        decode_bytes=0,
        total_bytes=150,
    )
    assert verdict(need, on_chip_bytes, flash_bytes) == expected


@pytest.mark.parametrize(
    ("on_chip_bytes", "flash_bytes", "expected"), [(100, pd.NA, None), (0, 100, None), (99, 99, "no")]
)
def test_without_a_total_only_weights_that_do_not_fit_give_a_verdict(
    on_chip_bytes: int, flash_bytes: object, expected: str | None
) -> None:
    need = Footprint(
        model="m",
        weights="int8",
        image_size=1,
        weights_bytes=100,
        activation_bytes=None,
        activation_peak=None,
        im2col_bytes=None,
        row_im2col_bytes=None,
        decode_bytes=0,
        total_bytes=None,
    )
    assert verdict(need, on_chip_bytes, flash_bytes) is expected


@pytest.mark.parametrize("fmt", ["table", "markdown", "latex"])
def test_tables_hold_needs_budgets_and_verdicts(fmt: Format, capsys: pytest.CaptureFixture[str]) -> None:
    main(replace(SQUEEZENET, format=fmt))
    text = capsys.readouterr().out
    for figure in ("5,682,048", "45,342,720", "DS890", "weights"):
        assert figure in text


def test_csv_has_a_row_for_each_device_and_need(capsys: pytest.CaptureFixture[str]) -> None:
    main(replace(SQUEEZENET, format="csv"))
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert len(rows) == 3 * len(devices())
    assert {row["fits"] for row in rows} <= {"all", "flash", "weights", "no"}


def test_command_prints_one_json_object(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--models", "squeezenet", "alexnet", "--format", "json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    fits = {(row["device"], row["model"], row["weights"]): row["fits"] for row in result["fits"]}
    assert fits["Xilinx Zynq UltraScale+ ZU9EG", "squeezenet", "int8"] == "all"
    assert all(verdict == "no" for (_, model, _), verdict in fits.items() if model == "alexnet")


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        (Options(models=("nosuchnet",)), "nosuchnet: unknown"),
        (Options(models=()), "--models: none given"),
        (Options(models=("squeezenet", "alexnet", "squeezenet")), "--models squeezenet: given twice"),
        (Options(precisions=("fp32", "int8", "fp32")), "--precisions fp32: given twice"),
        (Options(archive=Path("nowhere.sqz")), "archive nowhere.sqz: cannot be read .No such file"),
        (Options(archive=DEVICES), "archive .*devices.csv: is not an .sqz archive"),
        (Options(image_size=5), "image_size 5: too small"),
    ],
)
def test_a_wrong_request_is_refused(asked: Options, line: str) -> None:
    with pytest.raises(RequestError, match=line):
        main(asked)
