"""`launch/compare.py`: SqueezeNet and AlexNet side by side on three workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from commands import SMALL_MODEL, Commands, Finished, commands_that_join

pytestmark = pytest.mark.ray

STEPS = 3


@pytest.fixture(scope="module")
def compared(ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """Both models in one session."""
    with commands_that_join(ray_address, tmp_path_factory.mktemp("compared") / "runs") as commands:
        yield commands(
            "launch/compare.py", "--models", "squeezenet", "alexnet", "--strategies", "ddp",
            "--workers", 3, "--image-size", 64, "--num-classes", 1000, "--batch-size", 2,
            "--steps", STEPS, "--warmup-steps", 1, "--format", "json",
        )  # fmt: skip


@pytest.fixture(scope="module")
def said(compared: Finished) -> dict[str, Any]:
    """The report on its stdout."""
    assert compared.status == 0, compared.stderr
    found: dict[str, Any] = json.loads(compared.stdout)
    return found


def test_three_workers_send_four_thirds_of_either_model(compared: Finished, said: dict[str, Any]) -> None:
    steps = compared.table("steps").query("strategy == 'ddp'")
    for model, payload, tolerance in (("squeezenet", 4_993_696, 1e-2), ("alexnet", 244_403_360, 1e-3)):
        predicted = payload * 4 / 3  # 2(n-1)/n
        of_model = steps[steps["model"] == model]
        assert len(of_model) == 3 * (STEPS + 1)
        assert (of_model["logical_tx_bytes"] == payload).all()
        assert ((of_model["predicted_tx_bytes"] - predicted).abs() < 1).all()
        assert ((of_model["tcp_tx_bytes"] / predicted - 1).abs() < tolerance).all()
        (cell,) = [cell for cell in said["cells"] if cell["model"] == model]
        assert cell["steps"] == STEPS
        assert abs(cell["tcp_vs_predicted"]) < tolerance


def test_each_rank_sends_to_one_neighbour_on_a_ring(compared: Finished) -> None:
    peers = compared.table("peers").query("cell == 'alexnet-ddp-w3' and step == 1")
    much = peers[peers["tx_bytes"] > 300_000_000]
    links = sorted(zip(much["rank"], much["peer_rank"], strict=True))
    # Which way round is Gloo's choice.
    assert links in ([(0, 1), (1, 2), (2, 0)], [(0, 2), (1, 0), (2, 1)])


def test_models_take_turns_in_blocks_there_and_back(compared: Finished) -> None:
    steps = compared.table("steps")
    measured = steps[(steps["rank"] == 0) & ~steps["warmup"]].sort_values("t_start_ns")
    cells = ["squeezenet-ddp-w3", "squeezenet-alone-w1", "alexnet-ddp-w3", "alexnet-alone-w1"]
    # Blocks of one step.
    assert list(measured["cell"]) == [*cells, *reversed(cells), *cells]


def test_a_baseline_is_trained_by_one_worker_while_the_others_wait(
    compared: Finished, said: dict[str, Any]
) -> None:
    steps = compared.table("steps").sort_values("t_start_ns")
    alone = steps[steps["strategy"] == "alone"]
    assert set(alone["rank"]) == {0} and set(alone["world_size"]) == {1}
    assert alone.groupby("cell").size().to_dict() == dict.fromkeys(alone["cell"], STEPS + 1)
    ends_ns = steps["t_start_ns"] + steps["wall_s"] * 1e9
    others = steps[steps["rank"] != 0]
    for index, step in alone.iterrows():
        overlapping = (others["t_start_ns"] < ends_ns[index]) & (ends_ns[others.index] > step["t_start_ns"])
        assert not overlapping.any()
    baselines = {cell["model"]: cell for cell in compared.run.cells if cell["strategy"] == "alone"}
    gained = {row["model"]: row for row in said["speedups"]}
    for model in ("squeezenet", "alexnet"):
        # On a machine of its own the worker has all cores, not a share of them.
        (cores,) = baselines[model]["cores_by_host"].values()
        assert baselines[model]["threads_per_worker"] == cores
        assert gained[model]["baseline_cell"] == f"{model}-alone-w1"
        assert gained[model]["speedup_ratio"] > 0


def test_warm_up_comes_before_anything_is_measured(compared: Finished) -> None:
    steps = compared.table("steps")
    assert steps[steps["warmup"]]["t_start_ns"].max() < steps[~steps["warmup"]]["t_start_ns"].min()


def test_the_smaller_model_saves_a_factor_of_49_in_bytes(said: dict[str, Any]) -> None:
    (comparison,) = said["comparisons"]
    assert (comparison["small"], comparison["large"]) == ("squeezenet", "alexnet")
    assert (comparison["strategy"], comparison["world_size"]) == ("ddp", 3)
    assert (comparison["paired"], comparison["pairs"]) == (True, STEPS)
    assert comparison["bytes_ratio"] == pytest.approx(244_403_360 / 4_993_696, rel=0.01)
    assert comparison["step_ratio"] > 1


VARIED = {"bucket_mb": ["1", "25"], "precision": ["fp32", "bf16"]}


@pytest.mark.slow
def test_both_models_are_measured_with_all_combinations_of_two_options(joined: Commands) -> None:
    models = ["squeezenet", "alexnet"]
    vary = [word for name, values in VARIED.items() for word in ("--vary", f"{name}={','.join(values)}")]
    done = joined(
        "launch/compare.py", "--models", *models, "--strategies", "ddp", "--workers", 2, *vary,
        "--image-size", 64, "--batch-size", 2, "--steps", 3, "--warmup-steps", 1, "--format", "json",
    )  # fmt: skip
    assert done.status == 0, done.stderr
    said = json.loads(done.stdout)
    names = [cell["cell"] for cell in said["cells"]]
    assert len({cell["id"] for cell in said["cells"]}) == len(set(names)) == len(names) == 4 * len(models)
    assert set(done.table("steps")["cell"]) == set(names)
    steps = done.table("steps")
    assert (steps.groupby(["cell", "rank"]).size() == steps["step"].max() + 1).all()
    rows = said["option_comparisons"]
    kinds = sorted((row["model"], row["option"], row["small"], row["large"]) for row in rows)
    values = [("bucket_mb", 1.0, 25.0), ("precision", "fp32", "bf16")]
    assert kinds == sorted((model, *each) for model in models for each in 2 * values)
    for row in rows:
        assert row["bytes_ratio"] == pytest.approx(1, rel=0.02)
        assert row["step_ratio"] > 0
        assert {row["small_cell"], row["large_cell"]} <= set(names)
    # Each cell of the larger model against the cell of the smaller one with the same options.
    assert [row["differences"] for row in said["comparisons"]] == [[]] * 4 * (len(models) - 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--vary", "precison=fp32,bf16"), "did you mean precision?"),
        (("--vary", "bucket_mb=1,x"), "'x' must be a number or None"),
        (("--vary", "bucket_mb=1,-1"), "must be a number above 0"),
    ],
)
def test_values_that_cannot_be_varied_are_refused_in_one_line(
    joined: Commands, options: tuple[object, ...], message: str
) -> None:
    refused = joined.here("launch/compare.py", "--models", SMALL_MODEL, "--image-size", 16, *options)
    assert (refused.status, refused.stdout) == (2, "")
    assert message in refused.error_line
    assert not refused.runs.exists()
