"""`examples/own_model.py` trains under both strategies as its docstring says."""

from __future__ import annotations

import pytest
from commands import Commands

from examples.own_model import ResidualNet

pytestmark = [pytest.mark.ray, pytest.mark.slow]

MODEL = "examples.own_model:ResidualNet"


def test_the_example_model_trains_under_both_strategies_and_its_bytes_are_counted(joined: Commands) -> None:
    compared = joined(
        "launch/compare.py", "--models", MODEL, "--image-size", 32, "--batch-size", 4, "--workers", 2,
        "--steps", 2, "--warmup-steps", 1, "--no-baseline",
    )  # fmt: skip
    assert compared.status == 0, compared.stderr
    gradient_bytes = sum(parameter.numel() * 4 for parameter in ResidualNet().parameters())
    steps = compared.table("steps")
    assert set(steps["strategy"]) == {"ddp", "ps"}
    assert (steps["logical_tx_bytes"] == gradient_bytes).all()
