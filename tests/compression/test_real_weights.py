"""The real SqueezeNet v1.0 in 510 times fewer bytes than AlexNet; where weights and images can be had."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from launch import compress
from launch.compress import CalibrationOptions

WEIGHTS, IMAGES = "DISTSQZ_SQUEEZENET_NET", "DISTSQZ_IMAGENET_IMAGES"
"""Where they lie: the published 8-bit file, and ImageNet images in class folders."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not {WEIGHTS, IMAGES} <= os.environ.keys(), reason=f"{WEIGHTS} and {IMAGES} do not say where they are"
    ),
]


def test_squeezenet_in_478_158_bytes_answers_as_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.sqz"
    compress.main(
        compress.Options(
            checkpoint=Path(os.environ[WEIGHTS]),
            out=out,
            by_calibration=CalibrationOptions(calibration=Path(os.environ[IMAGES]), target_bytes=478_158),
            format="json",
        )
    )
    assert out.stat().st_size <= 478_158
    for half in json.loads(capsys.readouterr().out)["halves"]:
        assert half["divergence_nats"] < 0.005
        assert half["same_top1"] >= 0.95
        assert abs(half["top1"] - half["reference_top1"]) <= 0.01 + 1e-6
        assert abs(half["top5"] - half["reference_top5"]) <= 0.01 + 1e-6
