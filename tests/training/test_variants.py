"""Sessions of cells that differ in options: which cells there are, and which sessions are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from group import run_group

from distsqz.cli.measure import require_memory
from distsqz.errors import RequestError
from distsqz.strategies.all_reduce.strategy import AllReduce
from distsqz.strategies.parameter_server.options import ServerOptions
from distsqz.strategies.parameter_server.strategy import ParameterServer
from distsqz.strategies.strategy import Strategy
from distsqz.training.memory_needs import session_bytes
from distsqz.training.options import TrainingOptions
from distsqz.training.plan import plan_session
from distsqz.training.session import SessionPlan

MODEL = "small_models:small_net"
OPTIONS = TrainingOptions(image_size=32, num_classes=10, batch_size=2, steps=2, warmup_steps=0)
TWO = {"bucket_mb": [1.0, 25.0], "precision": ["fp32", "bf16"]}


def planned(
    models: list[str], strategies: list[Strategy], vary: dict[str, list[Any]]
) -> tuple[SessionPlan, list[dict[str, Any]]]:
    return plan_session(models, 2, OPTIONS, strategies, vary=vary)


def test_two_options_make_four_cells_a_model_with_ids_of_their_own() -> None:
    plan, entries = planned(["squeezenet", MODEL], [AllReduce()], TWO)
    assert [cell.model for cell in plan.cells] == ["squeezenet"] * 4 + [MODEL] * 4
    differing = ["-bucket1", "-bf16-bucket1", "-bucket25", "-bf16-bucket25"]
    cell = "small_models.small_net-ddp-w2"
    assert [each.name for each in plan.cells[4:]] == [f"{cell}{words}" for words in differing]
    assert [entry["cell"] for entry in entries] == [each.name for each in plan.cells]
    assert len({entry["id"] for entry in entries}) == 8
    common = f"{cell}-image32-classes10-batch2-steps2-warmup0"
    assert [entry["id"] for entry in entries[4:]] == [f"{common}{words}" for words in differing]
    of_first = entries[5]
    assert (of_first["bucket_mb"], of_first["precision"]) == (1.0, "bf16")
    assert of_first["options"]["strategy"]["bucket_mb"] == 1.0
    assert of_first["options"]["model"]["image_size"] == 32


def test_an_option_is_not_multiplied_where_it_has_no_effect() -> None:
    plan, _ = planned([MODEL], [AllReduce(), ParameterServer(ServerOptions(servers=1))], TWO)
    kinds = [
        (cell.strategy.name, cell.options.precision, getattr(cell.strategy.options, "bucket_mb", None))
        for cell in plan.cells
    ]
    assert sorted(kinds, key=str) == [
        ("ddp", "bf16", 1.0),
        ("ddp", "bf16", 25.0),
        ("ddp", "fp32", 1.0),
        ("ddp", "fp32", 25.0),
        ("ps", "bf16", None),
        ("ps", "fp32", None),
    ]
    assert "bucket_mb has no effect under ps: its values share a cell there" in plan.notices


def test_squeezenet_s_own_options_are_not_multiplied_for_another_model() -> None:
    plan, _ = planned(["squeezenet", MODEL], [AllReduce()], {"squeeze_ratio": [0.125, 0.5]})
    assert [cell.model for cell in plan.cells] == ["squeezenet", "squeezenet", MODEL]
    assert f"squeeze_ratio has no effect on {MODEL}: its values share a cell there" in plan.notices


def test_cells_cannot_differ_in_what_a_session_has_once() -> None:
    plan, _ = planned([MODEL], [ParameterServer(ServerOptions(servers=1))], {})
    (cell,) = plan.cells
    with pytest.raises(RequestError, match="servers 1 and 2: the cells of a session share"):
        SessionPlan(cells=[cell, replace(cell, strategy=ParameterServer(ServerOptions(servers=2)))])


def test_every_cell_computes_with_its_own_threads(tmp_path: Path) -> None:
    plan, _ = plan_session([MODEL], 1, OPTIONS, vary={"threads": [1, 2]})
    (box,) = run_group(plan, 1, tmp_path)
    assert [box.facts[cell.name]["threads_per_worker"] for cell in plan.cells] == [1, 2]


def test_going_on_with_several_cells_is_refused(tmp_path: Path) -> None:
    for asked in (
        {"vary": {"steps": [2, 4]}},
        {"strategies": [AllReduce(), ParameterServer(ServerOptions(servers=1))]},
    ):
        with pytest.raises(RequestError, match=r"resumed by a single cell"):
            plan_session([MODEL], 1, OPTIONS, resume=tmp_path / "saved.pt", **asked)


def test_memory_is_that_of_all_cells_and_of_the_largest_activations() -> None:
    options = replace(OPTIONS, image_size=64)
    plan, entries = plan_session(["squeezenet", "alexnet"], 2, options, vary={"lr": [0.1, 0.2]})
    payloads = [entry["payload_bytes"] for entry in entries]
    # parameters, gradients and momentum of two workers
    assert [needs.model_bytes for needs in plan.memory_needs] == [2 * 3 * payload for payload in payloads]
    activations = [needs.activation_bytes or 0 for needs in plan.memory_needs]
    images = 2 * torch.zeros(64, 3, 64, 64).nbytes
    rest = session_bytes(plan.memory_needs) - 6 * sum(payloads) - images - max(activations)
    assert min(activations) > 0
    assert 0 <= rest < 1000  # labels


def test_activations_are_most_of_what_a_step_keeps_for_its_backward_pass() -> None:
    plan, _ = plan_session(["squeezenet"], 1, replace(OPTIONS, image_size=64, channels_last="off"))
    (cell,) = plan.cells
    module = cell.build()
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    parameters = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = module(torch.zeros(2, 3, 64, 64)).sum()
    really = sum(size for place, size in kept.items() if place not in parameters)
    assert loss.requires_grad
    # The indices of max pools and the masks of dropout are left out.
    assert 0.8 * really < (plan.memory_needs[0].activation_bytes or 0) < really


def test_what_does_not_fit_is_refused_with_the_sum_and_what_is_available() -> None:
    plan, _ = plan_session([MODEL], 2, OPTIONS, vary={"lr": [0.1, 0.2]})
    needed = session_bytes(plan.memory_needs)
    require_memory(plan, needed)
    with pytest.raises(RequestError) as refused:
        require_memory(plan, needed - 1)
    gib = f"{needed / 2**30:.1f} GiB"
    assert f"2 of {MODEL} on 2 workers need at least {gib} of memory together" in str(refused.value)
    assert f"and {gib} are available" in str(refused.value)
