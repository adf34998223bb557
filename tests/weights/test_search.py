"""Quantisation that counts damage beats rounding, and the search ends at the edge of what suits."""

from __future__ import annotations

import torch
from torch import Tensor

from distsqz.weights.archive import decode
from distsqz.weights.curvature import Curvature, measure_curvature
from distsqz.weights.quantised import CompressedModel, ModelInfo
from distsqz.weights.rate_distortion import Trade, damage, quantise
from distsqz.weights.search import LEAST_NATS_PER_BIT, Candidate, compress, search
from tests.own_models import SmallNet


def correlated(generator: torch.Generator, d: int = 40, filters: int = 24) -> Curvature:
    mixed = torch.randn(d + 1, d + 1, generator=generator) * torch.linspace(2, 0.1, d + 1)
    inputs = mixed @ mixed.T
    return Curvature(inputs / inputs.trace(), torch.rand(filters, generator=generator), torch.ones(filters))


def entropy_bits(symbols: Tensor) -> float:
    shares = symbols.flatten().unique(return_counts=True)[1].double() / symbols.numel()
    return -(shares * shares.log2()).sum().item()


def test_damage_is_half_the_quadratic_form_of_the_errors() -> None:
    generator = torch.Generator().manual_seed(0)
    curvature = correlated(generator, 3, 2)
    weight, bias = torch.randn(2, 3, generator=generator), torch.randn(2, generator=generator)
    expected = 0.0
    for row in range(2):
        error = [*weight[row].tolist(), bias[row].item()]
        for i in range(4):
            for j in range(4):
                form = error[i] * curvature.inputs[i, j].item() * error[j]
                expected += curvature.outputs[row].item() * form / 2
    assert abs(damage(weight, bias, curvature) - expected) < 1e-5 * abs(expected)  # in fp32


def test_quantising_by_curvature_does_less_damage_than_rounding_at_no_more_bits() -> None:
    generator = torch.Generator().manual_seed(1)
    curvature = correlated(generator)
    weight, bias = torch.randn(24, 40, generator=generator), torch.zeros(24)
    trade = Trade(nats_per_bit=1e-4)
    step = trade.step(curvature)
    symbols, moved = quantise(weight, bias, curvature, step, trade)
    ours = damage(weight - symbols * step, bias - moved, curvature)
    coarse = step
    while entropy_bits((weight / coarse).round()) < entropy_bits(symbols):
        coarse *= 0.99
    assert ours < 0.7 * damage(weight - (weight / coarse).round() * coarse, bias, curvature)


def test_an_archive_has_the_tensors_in_the_order_of_the_state_dict() -> None:
    torch.manual_seed(0)
    model = SmallNet(10)
    curvatures = measure_curvature(model, [torch.randn(8, 3, 16, 16)])
    found = compress(model, ModelInfo(name="own", num_classes=10), curvatures, Trade(nats_per_bit=1e-6))
    assert list(decode(found.archive).tensors) == list(model.state_dict())


def test_the_search_ends_at_the_edge_of_what_suits() -> None:
    def compress_at(trade: Trade) -> Candidate:
        return Candidate(trade, CompressedModel(ModelInfo(name="own", num_classes=1), {}), b"", {})

    edge = 40 * LEAST_NATS_PER_BIT
    for smallest in (True, False):
        found = search(
            compress_at,
            lambda each, smallest=smallest: (each.trade.nats_per_bit <= edge) == smallest,
            smallest=smallest,
        )
        assert found is not None
        assert abs(found.trade.nats_per_bit / edge - 1) < 0.02
        assert search(compress_at, lambda _: False, smallest=smallest) is None
