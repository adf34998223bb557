"""The memory of a forward pass, against figures by hand and against tensors that are really alive."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from distsqz.errors import RequestError
from distsqz.models.fire import Fire
from distsqz.models.memory import Step, memory_steps, stored_tensors
from distsqz.models.registry import ModelOptions, build_model
from tests.models.unusual_models import Attention, Bilinear, Functional, Normalised, WithTable


def on_paper(name: str) -> nn.Module:
    with torch.device("meta"):
        return build_model(ModelOptions(model=name), num_classes=1000)


def peak_of(steps: list[Step]) -> tuple[str, int]:
    peak = max(steps, key=lambda step: step.live_values)
    return peak.name, peak.live_values


@pytest.mark.parametrize(
    ("image_size", "values"),
    # conv1's map beside what pool1 makes of it; the image is no longer needed.
    [(224, 96 * 109 * 109 + 96 * 54 * 54), (227, 96 * 111 * 111 + 96 * 55 * 55)],
)
def test_squeezenet_needs_most_where_pool1_shrinks_the_map_of_conv1(image_size: int, values: int) -> None:
    assert peak_of(memory_steps(on_paper("squeezenet"), image_size)) == ("pool1", values)


def test_fire_needs_its_squeezed_map_and_its_output_but_no_copies_of_the_parts() -> None:
    steps = {step.name: step.live_values for step in memory_steps(Fire(3, 4, 6, 8), 10)}
    assert steps["squeeze"] == (3 + 4) * 100
    assert steps["expand1x1"] == steps["expand3x3"] == (4 + 6 + 8) * 100
    assert steps["expand3x3_activation"] == steps["cat"] == (6 + 8) * 100


def test_a_part_that_is_the_image_or_stands_twice_in_the_result_is_copied() -> None:
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            part = self.conv(x)
            return torch.cat([part, part, x], dim=1)

    steps = {step.name: step.live_values for step in memory_steps(Doubled(), 2)}
    assert steps["conv"] == (3 + 5) * 4
    assert steps["cat"] == (3 + 5 + 13) * 4


def test_parts_of_a_later_concatenation_wait_in_its_result() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 5, 1)
            self.second = nn.Conv2d(5, 7, 1)

        def forward(self, x: Tensor) -> Tensor:
            part = self.first(x)
            return torch.cat([part, self.second(part)], dim=1)

    steps = {step.name: step.live_values for step in memory_steps(Dense(), 2)}
    assert steps == {"first": (3 + 12) * 4, "second": 12 * 4, "cat": 12 * 4}


class LiveStorages(fx.Interpreter):
    """Runs a model for real, drops each value after its last use, and adds up the memory held."""

    most_bytes = 0

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        held = [value for value in (*self.env.values(), result) if isinstance(value, Tensor)]
        storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in held}
        if n.op != "output":
            self.most_bytes = max(self.most_bytes, sum(storages.values()))
        return result


@pytest.mark.parametrize("name", ["alexnet", "alexnet_bvlc", "squeezenet1_1"])
def test_peak_is_what_a_run_that_drops_tensors_after_their_last_use_holds(name: str) -> None:
    model = build_model(ModelOptions(model=name), num_classes=10).eval()
    _, values = peak_of(memory_steps(model, 131))
    run = LiveStorages(fx.symbolic_trace(model))
    with torch.no_grad():
        run.run(torch.zeros(1, 3, 131, 131))
    assert run.most_bytes == 4 * values


def test_im2col_has_a_column_a_position_and_a_pointwise_convolution_needs_none() -> None:
    steps = {step.name: step for step in memory_steps(on_paper("squeezenet"), 224)}
    unfolded = nn.functional.unfold(torch.zeros(1, 3, 224, 224), kernel_size=7, stride=2)
    assert steps["conv1"].im2col_values == unfolded.numel()
    assert steps["conv1"].im2col_row_values == unfolded.numel() // 109
    assert steps["fire2/squeeze1x1"].im2col_values == steps["conv10"].im2col_values == 0
    assert steps["pool1"].im2col_values == 0


def test_a_grouped_convolution_unfolds_one_group_at_a_time() -> None:
    conv2 = next(step for step in memory_steps(on_paper("alexnet_bvlc"), 227) if step.name == "conv2")
    assert conv2.im2col_values == 48 * 5 * 5 * 27 * 27


def test_a_functional_convolution_unfolds_as_its_module_does() -> None:
    steps = {step.name: step for step in memory_steps(Functional(), 64)}
    assert (steps["conv2d"].im2col_row_values, steps["conv2d"].im2col_values) == (27 * 32, 27 * 32 * 32)
    assert steps["linear"].im2col_values == 0


def test_a_transposed_convolution_has_a_column_for_each_position_of_its_input() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(3, 4, 2, stride=2), nn.ConvTranspose2d(4, 4, 2, groups=2))
    first, second = memory_steps(model, 5)
    # Folded, these columns are the output of a convolution without bias.
    columns = torch.zeros(first.im2col_values // 25, 25)
    assert nn.functional.fold(columns, output_size=10, kernel_size=2, stride=2).shape == (4, 10, 10)
    assert first.im2col_row_values * 5 == first.im2col_values
    assert second.im2col_values == 2 * 2 * 2 * 10 * 10


@pytest.mark.parametrize(
    ("model", "name", "reason"),
    [
        (Attention(), "attention", "multiplies matrices 4 times"),
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten(2), nn.GRU(16, 2)), "2", "multiplies matrices 2 times"),
        (Bilinear(), "pair", "aten::_trilinear"),
    ],
)
def test_a_step_whose_inside_is_unknown_says_so(model: nn.Module, name: str, reason: str) -> None:
    steps = memory_steps(model.to("meta"), 16 if isinstance(model, Attention) else 4)
    assert {step.name: step.not_understood for step in steps if step.not_understood} == {name: reason}


def test_stored_are_parameters_and_what_else_the_forward_pass_reads() -> None:
    def values(model: nn.Module) -> int:
        return sum(tensor.numel() for tensor in stored_tensors(model, 64))

    assert values(Normalised()) == 64 * 27 + 4 * 64 + 650  # weights, batch norm's four vectors, classifier
    assert values(WithTable()) == values(WithTable(is_buffer=False)) == 314 + 8 * 64 * 64


def test_constants_that_the_forward_pass_makes_are_stored_and_not_alive() -> None:
    class Ramp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) + torch.linspace(0, 1, 4)

    model = Ramp().to("meta")
    assert sum(tensor.numel() for tensor in stored_tensors(model, 4)) == 9 + 4
    assert memory_steps(model, 4)[-1].live_values == 2 * 3 * 16


def test_a_model_is_left_as_it_was_and_dropout_takes_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    assert memory_steps(model, 4)[-1].live_values == 4 * 16
    assert model.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_a_model_that_cannot_be_traced_is_refused() -> None:
    class Wayward(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) if x.sum() > 0 else x

    with pytest.raises(RequestError, match=r"Wayward: torch\.fx cannot trace it"):
        memory_steps(Wayward(), 4)
