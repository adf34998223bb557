"""analysis/architecture.py prints what models are made of."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from distsqz.cli.architecture import Options, main
from distsqz.report.section import Format

SCRIPT = Path(__file__).parents[2] / "analysis" / "architecture.py"


def test_command_prints_one_json_object_with_the_published_figures(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--model", "squeezenet", "--format", "json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["model"], result["params"], result["tensors"]) == ("squeezenet", 1_248_424, 52)
    assert (result["bytes"], result["macs"]) == (4_993_696, 818_924_576)
    assert sum(layer["params"] for layer in result["layers"]) == 1_248_424
    assert sum(layer["gradient_bytes"] for layer in result["layers"]) == 4_993_696
    conv1 = result["layers"][0]
    assert (conv1["name"], conv1["params"], conv1["output_shape"]) == ("conv1", 14_208, [96, 109, 109])
    assert conv1["macs"] == 96 * 109 * 109 * 3 * 7 * 7
    assert conv1["activation_bytes"] == 96 * 109 * 109 * 4
    bvlc, owt = result["versus_alexnet"]["alexnet_bvlc"], result["versus_alexnet"]["alexnet"]
    assert (bvlc["image_size"], bvlc["params"], bvlc["macs"]) == (227, 60_965_224, 724_406_816)
    assert round(bvlc["params_ratio"], 2) == round(bvlc["bytes_ratio"], 2) == 48.83
    assert (owt["image_size"], owt["bytes"], owt["macs"]) == (224, 244_403_360, 714_188_480)
    assert (result["fire"]["standard_weights"], result["fire"]["fire_weights"]) == (1_179_648, 180_224)


@pytest.mark.parametrize("fmt", ["table", "markdown", "latex"])
def test_tables_hold_layers_totals_and_the_comparison(
    fmt: Format, capsys: pytest.CaptureFixture[str]
) -> None:
    main(Options(format=fmt))
    text = capsys.readouterr().out
    for figure in ("fire2/expand3x3", "total", "60,965,224", "1,179,648"):
        assert figure in text


def test_csv_is_the_table_of_layers_alone(capsys: pytest.CaptureFixture[str]) -> None:
    main(Options(format="csv"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "layer,kind,params,tensors,macs,weight_macs,output,activation_bytes,gradient_bytes"
    assert len(lines) == 1 + 30 + 1
    assert lines[-1].startswith("total,,1248424,52,818924576,818924576,")


def test_macs_compare_at_one_image_size_and_not_where_alexnet_cannot_take_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(Options(format="json", image_size=48))
    versus = json.loads(capsys.readouterr().out)["versus_alexnet"]
    assert versus["alexnet_bvlc"]["image_size"] == 48
    assert versus["alexnet_bvlc"]["macs_ratio"] > 0
    assert (versus["alexnet"]["image_size"], versus["alexnet"]["macs"]) == (None, None)
    assert versus["alexnet"]["params"] == 61_100_840


def test_a_total_says_which_macs_multiply_activations(capsys: pytest.CaptureFixture[str]) -> None:
    main(Options(model="tests.models.unusual_models:Attention", num_classes=10, image_size=64, format="json"))
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert (result["macs"], result["weight_macs"]) == (1_081_984, 1_049_216)
    assert "1,081,984 MACs in all: 1,049,216 multiply by weights" in printed.err


def test_an_own_model_is_shown_with_its_own_number_of_classes(capsys: pytest.CaptureFixture[str]) -> None:
    main(Options(model="tests.models.unusual_models:Bilinear", image_size=64, format="json"))
    printed = capsys.readouterr()
    assert json.loads(printed.out)["params"] == 10 * (3 * 3 + 1)
    assert "unusual_models:Bilinear, 10 classes" in printed.err


@pytest.mark.parametrize("fmt", ["json", "csv", "table", "markdown", "latex"])
def test_an_unknown_layer_is_named_and_never_zero(fmt: Format, capsys: pytest.CaptureFixture[str]) -> None:
    main(Options(model="tests.models.unusual_models:Bilinear", num_classes=10, image_size=64, format=fmt))
    printed = capsys.readouterr()
    assert "pair (Bilinear): not understood" in printed.err
    assert "aten::_trilinear" in printed.err
    if fmt == "json":
        result = json.loads(printed.out)
        assert result["layers"][0]["not_understood"] == ["aten::_trilinear"]
        assert result["macs"] is result["layers"][0]["macs"] is result["modules"][0]["macs"] is None
        assert result["versus_alexnet"]["alexnet"]["macs_ratio"] is None
    if fmt == "csv":
        assert printed.out.splitlines()[1:] == ["pair,Bilinear,100,2,,,10,40,400", "total,,100,2,,,,40,400"]
