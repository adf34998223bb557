"""Curvature is what the Fisher information of small networks is in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from distsqz.weights.agreement import divergences
from distsqz.weights.curvature import TEMPERATURE, measure_curvature
from distsqz.weights.quantised import ModelInfo
from distsqz.weights.rate_distortion import Trade, damage
from distsqz.weights.search import compress

SAMPLES = 400


def test_a_single_linear_layer_has_the_curvature_of_softmax_regression() -> None:
    """There the Fisher information is the product of diag(p) - p p' and the input with itself."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    image = torch.randn(1, 3, 2, 2)
    (found,) = measure_curvature(model, [image] * SAMPLES)["1"]
    p = (model(image) / TEMPERATURE).softmax(1)[0].detach()
    x = torch.cat([image.flatten(), torch.ones(1)])
    fisher = torch.diag(p) - torch.outer(p, p)
    assert torch.allclose(found.inputs, torch.outer(x, x) / x.square().sum(), atol=1e-5)
    assert torch.allclose(found.outputs, fisher.diagonal() * x.square().sum(), rtol=0.15)
    assert torch.allclose(found.bias, fisher.diagonal(), rtol=0.15)


def small_changes(model: nn.Sequential, images: Tensor, size: float) -> tuple[float, float]:
    """The divergence that changing one filter makes, and what the curvature says it makes."""
    curvatures = measure_curvature(model, [images] * 40)
    layer = model[0]
    assert isinstance(layer, nn.Conv2d)
    before = model(images).detach()
    error = size * torch.randn(layer.weight[0].numel(), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        layer.weight[0] += error.view(layer.weight[0].shape)
    errors = torch.zeros(len(layer.weight), len(error))
    errors[0] = error
    predicted = damage(errors, torch.zeros(len(layer.weight)), curvatures["0"][0])
    softened = divergences(before / TEMPERATURE, model(images).detach() / TEMPERATURE)
    return softened.mean().item() * TEMPERATURE**2, predicted


def test_of_a_convolution_it_foretells_the_divergence_of_a_small_change() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6)
    )
    found, predicted = small_changes(model, torch.randn(32, 3, 8, 8), 0.02)
    assert 0.3 < predicted / found < 3  # a Kronecker product is an approximation


def test_a_layer_without_bias_weighs_no_constant() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Flatten(), nn.Linear(4 * 36, 3, bias=False))
    for (curvature,) in measure_curvature(model, [torch.randn(4, 3, 8, 8)]).values():
        assert not curvature.inputs[-1].any()
        assert curvature.inputs.trace() == pytest.approx(1, abs=1e-5)
    info = ModelInfo(name="own", num_classes=3)
    curvatures = measure_curvature(model, [torch.randn(4, 3, 8, 8)])
    found = compress(model, info, curvatures, Trade(nats_per_bit=1e-7))
    assert set(found.model.tensors) == {"0.weight", "2.weight"}
    restored = torch.from_numpy(found.model.tensors["0.weight"].values)
    assert (restored - model[0].weight).norm() < 0.1 * model[0].weight.norm()


def test_a_layer_that_no_answer_depends_on_costs_next_to_nothing() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    with torch.no_grad():
        model[0].bias.fill_(-1000)  # ReLU lets nothing through
    curvatures = measure_curvature(model, [torch.randn(4, 3, 8, 8)])
    found = compress(model, ModelInfo(name="own", num_classes=3), curvatures, Trade(nats_per_bit=1e-7))
    assert not found.model.tensors["0.weight"].symbols.any()
    assert found.damage_nats["0"] == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(torch.from_numpy(found.model.tensors["4.weight"].values)).all()


class OverPositions(nn.Module):
    """A linear layer over each of many positions, as attention has them."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Linear(3, 5)
        self.last = nn.Linear(5, 4)

    def forward(self, images: Tensor) -> Tensor:
        positions = images.flatten(2).transpose(1, 2)
        answer: Tensor = self.last(self.each(positions).relu().mean(1))
        return answer


def test_a_linear_layer_over_positions_is_a_convolution_of_one_pixel() -> None:
    torch.manual_seed(4)
    model = OverPositions()
    convolution = nn.Conv2d(3, 5, 1)
    with torch.no_grad():
        convolution.weight.copy_(model.each.weight[:, :, None, None])
        convolution.bias.copy_(model.each.bias)  # type: ignore[union-attr]
    twin = nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.last)
    images = [torch.randn(2, 3, 4, 4) for _ in range(3)]
    (ours,), (theirs,) = measure_curvature(model, images)["each"], measure_curvature(twin, images)["0"]
    assert torch.allclose(ours.inputs, theirs.inputs, atol=1e-5)
    assert torch.allclose(ours.outputs, theirs.outputs, atol=1e-5)
