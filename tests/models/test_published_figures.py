"""The registry's models have exactly the sizes and costs that are published for them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from distsqz.models.layers import layer_table, totals, totals_by_module
from distsqz.models.registry import MODELS, ModelOptions, build_model


def on_paper(name: str, **options: float) -> nn.Module:
    """Shapes alone, so that counting AlexNet's 61 million parameters costs nothing."""
    with torch.device("meta"):
        return build_model(ModelOptions(model=name, **options), num_classes=1000)


def shapes_of(name: str, image_size: int) -> dict[str, tuple[int, ...]]:
    return {layer.name: layer.output_shape for layer in layer_table(on_paper(name), image_size)}


@pytest.mark.parametrize(
    ("name", "params", "tensors", "fp32_bytes"),
    [
        ("squeezenet", 1_248_424, 52, 4_993_696),
        ("squeezenet1_1", 1_235_496, 52, 4_941_984),
        ("squeezenet_simple_bypass", 1_248_424, 52, 4_993_696),
        ("squeezenet_complex_bypass", 1_589_672, 60, 6_358_688),
        ("alexnet", 61_100_840, 16, 244_403_360),
        ("alexnet_bvlc", 60_965_224, 16, 243_860_896),
    ],
)
def test_params_tensors_and_bytes_are_the_published_ones(
    name: str, params: int, tensors: int, fp32_bytes: int
) -> None:
    model = on_paper(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == params
    sums = totals(layer_table(model, 224))
    assert (sums.params, sums.tensors, sums.gradient_bytes) == (params, tensors, fp32_bytes)


@pytest.mark.parametrize(
    ("name", "image_size", "macs"),
    [
        ("squeezenet", 224, 818_924_576),
        ("squeezenet", 227, 832_667_936),
        ("squeezenet1_1", 224, 349_151_936),
        ("squeezenet_simple_bypass", 224, 818_924_576),
        ("squeezenet_complex_bypass", 224, 1_165_298_720),
        ("alexnet", 224, 714_188_480),
        ("alexnet_bvlc", 227, 724_406_816),
    ],
)
def test_multiply_accumulates_are_the_published_ones(name: str, image_size: int, macs: int) -> None:
    assert totals(layer_table(on_paper(name), image_size)).macs == macs


@pytest.mark.parametrize("name", MODELS)
def test_multiply_accumulates_are_half_the_operations_that_torch_counts(name: str) -> None:
    model = on_paper(name)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 200, 200, device="meta"))
    assert totals(layer_table(model, 200)).macs == counter.get_total_flops() / 2


def test_squeezenet_has_the_papers_parameters_in_every_module() -> None:
    modules = totals_by_module(layer_table(on_paper("squeezenet"), 224))
    assert {name: sums.params for name, sums in modules.items() if sums.params} == {
        "conv1": 14_208,
        "fire2": 11_920,
        "fire3": 12_432,
        "fire4": 45_344,
        "fire5": 49_440,
        "fire6": 104_880,
        "fire7": 111_024,
        "fire8": 188_992,
        "fire9": 197_184,
        "conv10": 513_000,
    }


def test_squeezenet_has_the_papers_26_convolutions_and_4_pools_in_order() -> None:
    fires = [
        [f"fire{number}/squeeze1x1", f"fire{number}/expand1x1", f"fire{number}/expand3x3"]
        for number in range(2, 10)
    ]
    expected = [
        *["conv1", "pool1", *fires[0], *fires[1], *fires[2], "pool4"],
        *[*fires[3], *fires[4], *fires[5], *fires[6], "pool8", *fires[7], "conv10", "pool10"],
    ]
    assert [layer.name for layer in layer_table(on_paper("squeezenet"), 224)] == expected


def test_squeezenet_1_1_pools_earlier() -> None:
    names = [layer.name for layer in layer_table(on_paper("squeezenet1_1"), 224)]
    pools = [(names[index - 1], name) for index, name in enumerate(names) if name.startswith("pool")]
    assert pools == [
        ("conv1", "pool1"),
        ("fire3/expand3x3", "pool3"),
        ("fire5/expand3x3", "pool5"),
        ("conv10", "pool10"),
    ]


def test_complex_bypass_adds_a_convolution_where_channels_differ() -> None:
    layers = layer_table(on_paper("squeezenet_complex_bypass"), 224)
    assert {layer.name: layer.params for layer in layers if "bypass" in layer.name} == {
        "fire2/bypass1x1": 12_416,
        "fire4/bypass1x1": 33_024,
        "fire6/bypass1x1": 98_688,
        "fire8/bypass1x1": 197_120,
    }


def test_bvlc_alexnet_has_caffes_parameters_in_every_layer() -> None:
    layers = layer_table(on_paper("alexnet_bvlc"), 227)
    assert {layer.name: layer.params for layer in layers if layer.params} == {
        "conv1": 34_944,
        "conv2": 307_456,
        "conv3": 885_120,
        "conv4": 663_936,
        "conv5": 442_624,
        "fc6": 37_752_832,
        "fc7": 16_781_312,
        "fc8": 4_097_000,
    }


@pytest.mark.parametrize(("image_size", "sizes"), [(227, (111, 55, 27, 13)), (224, (109, 54, 27, 13))])
def test_squeezenet_rounds_pooled_sizes_up(image_size: int, sizes: tuple[int, ...]) -> None:
    shapes = shapes_of("squeezenet", image_size)
    assert tuple(shapes[name][-1] for name in ("conv1", "pool1", "pool4", "pool8")) == sizes
    assert shapes["conv10"] == (1000, 13, 13)
    assert shapes["pool10"] == (1000, 1, 1)


@pytest.mark.parametrize("image_size", [224, 227])
def test_bvlc_alexnet_needs_no_average_pool_at_its_own_sizes(image_size: int) -> None:
    shapes = shapes_of("alexnet_bvlc", image_size)
    assert shapes["pool1"] == (96, 27, 27)
    assert shapes["pool2"] == (256, 13, 13)
    assert shapes["pool5"] == (256, 6, 6)
    assert "avgpool" not in shapes


@pytest.mark.parametrize(
    ("squeeze_ratio", "params"),
    [(0.125, 1_248_424), (0.25, 1_967_080), (0.5, 3_404_392), (0.75, 4_841_704), (1.0, 6_279_016)],
)
def test_squeeze_ratio_sweep_has_the_papers_sizes(squeeze_ratio: float, params: int) -> None:
    model = on_paper("squeezenet", squeeze_ratio=squeeze_ratio)
    assert sum(parameter.numel() for parameter in model.parameters()) == params


@pytest.mark.parametrize(
    ("pct_3x3", "params"),
    [(0.01, 1_478_248), (0.25, 2_421_352), (0.5, 3_404_392), (0.75, 4_387_432), (0.99, 5_330_536)],
)
def test_pct_3x3_sweep_has_the_papers_sizes(pct_3x3: float, params: int) -> None:
    model = on_paper("squeezenet", squeeze_ratio=0.5, pct_3x3=pct_3x3)
    assert sum(parameter.numel() for parameter in model.parameters()) == params
