"""docs/sqz-format.md says all of the format: a decoder written from it alone reads what archives hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distsqz.weights.archive import decode, encode
from distsqz.weights.coder import lanes_for
from distsqz.weights.quantised import CompressedModel, Quantised
from tests.weights import plain_decoder
from tests.weights.small_archives import INFO, small_model, sparse

LARGEST = 2**31 - 1


def assert_both_decoders_agree(model: CompressedModel) -> None:
    content = encode(model)
    plain, found = plain_decoder.decode(content), decode(content).tensors
    assert list(plain) == list(found) == list(model.tensors)
    for name, tensor in model.tensors.items():
        shape, symbols = plain[name]
        assert shape == found[name].symbols.shape == tensor.symbols.shape
        assert symbols == found[name].symbols.ravel().tolist() == tensor.symbols.ravel().tolist()


def uneven(shape: tuple[int, ...], density: float, seed: int = 0, scale: float = 4) -> Quantised:
    """Filters and channels of different sizes, kernels that lean to one sign: every context occurs."""
    generator = np.random.default_rng(seed)
    filters = np.exp(generator.normal(0, 1, (shape[0], 1, *(1 for _ in shape[2:]))))
    channels = np.exp(generator.normal(0, 1, (1, shape[1], *(1 for _ in shape[2:]))))
    lean = generator.normal(0, 1, (*shape[:2], *(1 for _ in shape[2:]))) + generator.normal(
        0, 1, channels.shape
    )
    values = scale * filters * channels * (lean + generator.laplace(0, 1, shape))
    return Quantised(np.round(values * (generator.random(shape) < density)).astype(np.int32), 0.01)


def wide(shape: tuple[int, ...], bits: float, seed: int = 0) -> Quantised:
    """Magnitudes of any number of bits up to so many."""
    generator = np.random.default_rng(seed)
    magnitudes = np.exp2(generator.uniform(0, bits, shape)).astype(np.int64)
    return Quantised((magnitudes * generator.choice([-1, 0, 1], shape)).astype(np.int32), 0.01)


def test_a_small_model_of_every_sort_of_tensor() -> None:
    assert_both_decoders_agree(small_model())


def test_a_model_of_nothing() -> None:
    assert_both_decoders_agree(CompressedModel(INFO, {}))
    assert_both_decoders_agree(CompressedModel(INFO, {"empty": Quantised(np.zeros((0, 3), np.int32))}))


@pytest.mark.parametrize("shape", [(128, 64), (150, 40, 1, 1), (70, 20, 3, 3), (20, 12, 5), (1, 9, 7, 11)])
@pytest.mark.parametrize("density", [0.1, 0.9])
def test_kernels_of_one_weight_and_of_more(shape: tuple[int, ...], density: float) -> None:
    assert_both_decoders_agree(CompressedModel(INFO, {"w": uneven(shape, density)}))


def test_a_tensor_of_several_batches_cut_within_a_kernel() -> None:
    tensors = {
        "before.weight": uneven((16, 3, 3, 3), 0.4, 1),
        "before.bias": sparse((16,), 1, 1, 1000),
        "empty": Quantised(np.zeros((3, 0), np.int32)),
        "large.weight": uneven((90, 20, 6, 7), 0.3, 2),
        "zero.weight": sparse((30, 20, 3, 3), 0),
        "after.weight": uneven((40, 30, 1, 1), 0.3, 3),
    }
    assert (2**16 - 16 * 27 - 16) % (6 * 7) != 0
    assert_both_decoders_agree(CompressedModel(INFO, tensors))


def test_more_tensors_than_a_batch_takes_with_empty_ones_among_them() -> None:
    tensors = {f"w{i}": uneven((2 + i % 3, 5, 3), 0.5, i) for i in range(110)}
    tensors |= {f"w{i}": Quantised(np.zeros((0, 5), np.int32)) for i in range(0, 110, 6)}
    assert_both_decoders_agree(CompressedModel(INFO, tensors))


@pytest.mark.parametrize("bits", [7.1, 16, 17, 21, 31])
def test_magnitudes_above_127_and_above_two_to_the_20_in_several_lanes(bits: float) -> None:
    assert_both_decoders_agree(
        CompressedModel(INFO, {"w": wide((70, 150), bits), "v": wide((6000,), bits, 1)})
    )


@pytest.mark.parametrize("weights", [0, 4095, 4096, 8191, 8192, 2**24 - 1, 2**24, 2**25, 2**31])
def test_lanes_of_more_weights_than_are_decoded_here(weights: int) -> None:
    assert plain_decoder.lanes_for(weights) == lanes_for(weights)


@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=5), max_size=5),
    least=st.sampled_from([-LARGEST, -300, -1, 0]),
    most=st.sampled_from([LARGEST, 300, 1, 0]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_small_tensors_of_any_shape(shapes: list[list[int]], least: int, most: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    tensors = {
        str(i): Quantised(generator.integers(least, most, shape, np.int32, endpoint=True))
        for i, shape in enumerate(shapes)
        if math.prod(shape) < 700
    }
    assert_both_decoders_agree(CompressedModel(INFO, tensors))
