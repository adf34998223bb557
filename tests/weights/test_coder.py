"""Symbols come back whatever they are, and take about as many bits as their entropy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from distsqz.weights.coder import LARGEST, decode_symbols, encode_symbols, statistics
from distsqz.weights.errors import ArchiveError

SHAPES = st.sampled_from(
    [
        (),
        (0,),
        (0, 3),
        (1,),
        (5,),
        (300,),
        (4, 7),
        (1, 1, 1, 1),
        (8, 3, 3, 3),
        (16, 4, 1, 1),
        (3, 0, 2),
        (2, 3, 4),
    ]
)


@st.composite
def tensors(draw: st.DrawFn) -> NDArray[np.int32]:
    shape, density = draw(SHAPES), draw(st.sampled_from([0.0, 0.02, 0.3, 1.0]))
    most = draw(st.sampled_from([1, 5, 63, 64, 300, 70_000, LARGEST]))
    generator = np.random.default_rng(draw(st.integers(0, 1000)))
    if draw(st.booleans()):
        return np.full(shape, draw(st.sampled_from([0, most, -most])), np.int32)
    values = generator.integers(-most, most, shape, endpoint=True) * (generator.random(shape) < density)
    return np.asarray(values, np.int32)


def assert_comes_back(given_tensors: list[NDArray[np.int32]]) -> int:
    known, content = encode_symbols(given_tensors)
    found = decode_symbols(content, [tensor.shape for tensor in given_tensors], known)
    for before, after in zip(given_tensors, found, strict=True):
        assert after.dtype == np.int32
        np.testing.assert_array_equal(before, after)
    return len(content)


@given(st.lists(tensors(), max_size=6))
@settings(max_examples=120, deadline=None)
def test_any_tensors_come_back(given_tensors: list[NDArray[np.int32]]) -> None:
    assert_comes_back(given_tensors)


def test_more_tensors_than_are_coded_together_come_back() -> None:
    generator = np.random.default_rng(0)
    assert_comes_back([generator.integers(-3, 4, (index % 5, 3)).astype(np.int32) for index in range(100)])


def test_a_huge_tensor_comes_back() -> None:
    generator = np.random.default_rng(0)
    shape = (1000, 3001)  # neither length divides the blocks that are coded together
    symbols = np.round(generator.laplace(0, 3, shape)) * (generator.random(shape) < 0.1)
    assert_comes_back([symbols.astype(np.int32)])


def test_magnitudes_go_to_the_largest_of_32_bits_and_no_further() -> None:
    powers = [sign * (2**bits + more) for bits in range(31) for more in (-1, 0, 1) for sign in (-1, 1)]
    assert_comes_back([np.array([*powers, LARGEST, -LARGEST], np.int32)])
    with pytest.raises(ValueError, match="-2\\^31"):
        statistics(np.array([-(2**31)], np.int32))


def test_a_million_zeros_take_next_to_nothing() -> None:
    assert assert_comes_back([np.zeros((1000, 1000), np.int32)]) < 1500  # 244 lanes' states are 512


def test_independent_symbols_take_their_entropy() -> None:
    """Contexts can gain nothing here: what they cost is all that shows."""
    generator = np.random.default_rng(0)
    shape = (512, 256, 3, 3)
    symbols = np.round(generator.laplace(0, 3, shape)) * (generator.random(shape) < 0.3)
    shares = np.unique(symbols, return_counts=True)[1] / symbols.size
    entropy_bytes = -(shares * np.log2(shares)).sum() * symbols.size / 8
    size = assert_comes_back([symbols.astype(np.int32)])
    assert 0.995 * entropy_bytes < size < 1.015 * entropy_bytes


def test_a_stream_of_other_shapes_is_refused() -> None:
    symbols = np.random.default_rng(0).integers(-9, 9, (40, 30)).astype(np.int32)
    known, content = encode_symbols([symbols])
    for shape in [(40, 29), (40, 31), (80, 30)]:
        with pytest.raises(ArchiveError):
            decode_symbols(content, [shape], known)
