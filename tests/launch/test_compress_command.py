"""launch/compress.py --calibration, and launch/evaluate.py on what it wrote."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from distsqz.cli import compress, evaluate
from distsqz.cli.compress import CalibrationOptions
from distsqz.cli.spelling import spell
from distsqz.cli.train_compressed import CompressionTraining
from distsqz.errors import RequestError
from distsqz.models.preprocessing import Preprocessing
from distsqz.weights.archive import decode
from tests.own_models import SmallNet

MODEL = "tests.own_models:SmallNet"
CLASSES = 4


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images a class; the class is how bright they are."""
    folder = tmp_path_factory.mktemp("photographs")
    draw = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / f"class{label}").mkdir()
        for index in range(10):
            pixels = label * 60 + draw.integers(0, 30, (40, 50, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"class{label}" / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that tell brightness: each class's logit is highest at its own."""
    torch.manual_seed(0)
    model = SmallNet(CLASSES)
    head = model[-1]
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        for parameter in model[0].parameters():
            parameter.fill_(0.03)
        centres = torch.linspace(-2, 2, CLASSES)
        head.weight[:] = centres[:, None] / 8 + 0.01 * torch.randn(head.weight.shape)
        head.bias[:] = -centres.square()
    path = tmp_path_factory.mktemp("weights") / "own.pth"
    torch.save(model.state_dict(), path)
    return path


def check_refused(command: ModuleType, asked: compress.Options | evaluate.Options, line: str) -> None:
    """The user of the command reads a line that matches `line`."""
    with pytest.raises(RequestError) as refused:
        command.main(asked)
    assert re.search(line, spell(refused.value, command.Options))


def options(checkpoint: Path, out: Path, folder: Path, **chosen: int | float) -> compress.Options:
    return compress.Options(
        checkpoint=checkpoint,
        out=out,
        model=MODEL,
        by_calibration=CalibrationOptions(calibration=folder, views=1, **chosen),  # type: ignore[arg-type]
        format="json",
    )


def test_the_archive_keeps_to_the_size_and_evaluates_as_was_told(
    checkpoint: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.sqz"
    compress.main(options(checkpoint, out, photographs, target_bytes=800))
    told = json.loads(capsys.readouterr().out)
    assert told["archive_bytes"] == out.stat().st_size <= 800
    assert [half["images"] for half in told["halves"]] == [20, 20]
    assert {layer["layer"] for layer in told["layers"]} >= {"0", "5"}

    evaluate.main(
        evaluate.Options(
            checkpoint=out,
            data=f"imagefolder:{photographs}",
            reference=checkpoint,
            model=MODEL,
            format="json",
        )
    )
    (row,) = json.loads(capsys.readouterr().out)
    assert row["images"] == 40
    for share, half in (("top1_share", "top1"), ("same_top1_share", "same_top1")):
        assert row[share] == pytest.approx(sum(each[half] for each in told["halves"]) / 2, abs=1e-6)
    divergence = sum(each["divergence_nats"] for each in told["halves"]) / 2
    assert row["divergence_nats"] == pytest.approx(divergence, rel=1e-3, abs=1e-6)  # other batches


def test_the_same_input_gives_the_same_archive(checkpoint: Path, photographs: Path, tmp_path: Path) -> None:
    written = []
    for name in ("a.sqz", "b.sqz"):
        compress.main(options(checkpoint, tmp_path / name, photographs, target_bytes=800))
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    assert list(tmp_path.glob("*.part")) == []


def test_no_more_accuracy_is_lost_than_allowed(
    checkpoint: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compress.main(options(checkpoint, tmp_path / "m.sqz", photographs, max_drop=5.0))
    choosing, _ = json.loads(capsys.readouterr().out)["halves"]
    assert choosing["reference_top1"] >= 0.5
    assert choosing["top1"] >= choosing["reference_top1"] - 0.05


def test_few_images_are_taken_from_all_over_the_folder(
    checkpoint: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compress.main(options(checkpoint, tmp_path / "m.sqz", photographs, target_bytes=900, images=8))
    halves = json.loads(capsys.readouterr().out)["halves"]
    assert [half["images"] for half in halves] == [4, 4]


class Normalised(nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, num_classes),
        )


class Wide(nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(50), nn.Flatten(), nn.Linear(7500, num_classes))


class PadsBySame(nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3, padding="same"),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, num_classes),
        )


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Normalised, r"holds '1.bias'; what can be compressed are weights and biases"),
        (Wide, r"each output of 2 weighs 7,500 inputs.*--data instead"),
        (PadsBySame, r"0 must pad with zeros"),
    ],
)
def test_what_calibration_cannot_do_is_told_before_the_work(
    kind: type[nn.Module], reason: str, photographs: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "own.pth"
    torch.save(kind(CLASSES).state_dict(), weights)
    asked = compress.Options(
        checkpoint=weights,
        out=tmp_path / "m.sqz",
        model=f"{__name__}:{kind.__name__}",
        by_calibration=CalibrationOptions(calibration=photographs),
    )
    check_refused(compress, asked, reason)


def test_classes_that_the_model_does_not_know_are_refused(photographs: Path, tmp_path: Path) -> None:
    weights = tmp_path / "own.pth"
    torch.save(SmallNet(2).state_dict(), weights)
    check_refused(
        compress,
        options(weights, tmp_path / "m.sqz", photographs),
        r"--calibration .* holds class 3, .* tells 2 apart",
    )
    asked = evaluate.Options(checkpoint=weights, data=f"imagefolder:{photographs}", model=MODEL)
    check_refused(evaluate, asked, r"--data .* holds class 3, .* tells 2 apart")


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        ({"target_bytes": 10, "max_drop": 1.0}, "--target-bytes and --max-drop"),
        ({"target_bytes": 0}, "--target-bytes 0: must be at least 1"),
        ({"max_drop": 101.0}, "--max-drop 101.0: must be from 0 to 100"),
        ({"images": 1}, "--images 1: must be at least 2"),
        ({"views": 0}, "--views 0: must be at least 1"),
    ],
)
def test_options_out_of_range_are_named(chosen: dict[str, float], reason: str) -> None:
    with pytest.raises(RequestError) as refused:
        CalibrationOptions(**chosen)  # type: ignore[arg-type]
    assert reason in spell(refused.value, compress.Options)


@pytest.mark.parametrize(
    ("calibrated", "other", "reason"),
    [
        (True, CompressionTraining(density=0.37), "--density 0.37: goes with --data, which was not given"),
        (False, CalibrationOptions(target_bytes=10), "--target-bytes 10: goes with --calibration"),
    ],
)
def test_options_of_the_way_not_taken_are_refused(
    calibrated: bool,
    other: CompressionTraining | CalibrationOptions,
    reason: str,
    checkpoint: Path,
    photographs: Path,
    tmp_path: Path,
) -> None:
    asked = compress.Options(
        checkpoint=checkpoint,
        out=tmp_path / "m.sqz",
        by_calibration=CalibrationOptions(calibration=photographs) if calibrated else other,  # type: ignore[arg-type]
        by_training=other if calibrated else CompressionTraining(data="synthetic"),  # type: ignore[arg-type]
    )
    check_refused(compress, asked, reason)


def test_what_cannot_be_written_or_read_is_told_first(
    checkpoint: Path, photographs: Path, tmp_path: Path
) -> None:
    check_refused(
        compress,
        options(checkpoint, tmp_path / "none" / "m.sqz", photographs),
        r"--out .* there is no folder",
    )
    check_refused(
        compress,
        options(tmp_path / "none.pth", tmp_path / "m.sqz", photographs),
        r"CHECKPOINT .*cannot be read",
    )
    check_refused(
        compress, options(checkpoint, tmp_path / "m.sqz", tmp_path / "none"), r"--calibration .*none"
    )
    asked = compress.Options(
        checkpoint=checkpoint,
        out=tmp_path / "m.sqz",
        model=MODEL,
        by_training=CompressionTraining(data="synthetic", image_size=0),
    )
    check_refused(compress, asked, "--image-size 0")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_other_classes_is_no_reference(
    checkpoint: Path, photographs: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.pth"
    torch.save(SmallNet(7).state_dict(), other)
    asked = evaluate.Options(
        checkpoint=checkpoint, data=f"imagefolder:{photographs}", reference=other, model=MODEL
    )
    check_refused(evaluate, asked, r"--reference .* tells 7 classes apart, CHECKPOINT 4")


def test_the_archive_tells_how_images_are_prepared(
    checkpoint: Path, photographs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "m.sqz"
    compress.main(options(checkpoint, out, photographs, target_bytes=900))
    assert decode(out.read_bytes()).info.preprocessing == Preprocessing(resize=256, crop=224)


def test_evaluating_a_folder_with_train_counts_classes_as_training_did_and_says_what_it_leaves_out(
    checkpoint: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All but one class left in val: by its own folders every image would be judged by a wrong number."""
    shutil.copytree(photographs, tmp_path / "train")
    shutil.copytree(photographs, tmp_path / "val")
    shutil.rmtree(tmp_path / "val" / "class0")
    (tmp_path / "val" / "class1" / "notes.txt").touch()
    rows = {}
    for name, data in (("all", photographs), ("some", tmp_path)):
        asked = evaluate.Options(
            checkpoint=checkpoint,
            data=f"imagefolder:{data}",
            model=MODEL,
            reference=checkpoint,
            format="json",
        )
        evaluate.main(asked)
        printed = capsys.readouterr()
        (rows[name],) = json.loads(printed.out)
        left_out = f"left out of imagefolder:{data}: 1 file that is no image (.txt 1)"
        assert printed.err.count(left_out) == (name == "some")
    right_of_class0 = 40 * rows["all"]["top1_share"] - 30 * rows["some"]["top1_share"]
    assert rows["some"]["images"] == 30
    assert rows["some"]["top1_share"] > 0.5
    assert 0 <= round(right_of_class0, 4) <= 10


def test_calibration_says_what_it_leaves_out(
    checkpoint: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(photographs, tmp_path / "images")
    (tmp_path / "images" / "class0" / ".hidden.png").touch()
    compress.main(options(checkpoint, tmp_path / "m.sqz", tmp_path / "images", target_bytes=900))
    assert f"left out of --calibration {tmp_path / 'images'}: 1 hidden" in capsys.readouterr().err
