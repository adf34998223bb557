import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.nn import functional as F

from distsqz.weights.fine_tune import FineTuning, fine_tune
from distsqz.weights.prune import Masked, magnitude_masks, prunable
from distsqz.weights.shared_values import Shared, from_codebook, k_means, nearest, uniform
from tests.weights.small_problem import small_model, small_split

VALUES = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-8, 8, width=32))


def _error(values: np.ndarray, centres: np.ndarray) -> float:
    return float(np.square(values.astype(np.float64) - centres[nearest(values, centres)]).sum())


@given(VALUES, st.integers(1, 8))
def test_k_means_is_never_worse_than_evenly_spaced_values(values, count):
    even = np.linspace(values.min(), values.max(), count) if count > 1 else values.min(keepdims=True)
    centres = k_means(values, count)
    assert 1 <= len(centres) <= count
    assert _error(values, centres) <= _error(values, even) * (1 + 1e-4) + 1e-6


@given(VALUES, st.integers(1, 8))
def test_each_shared_value_is_the_mean_of_the_values_nearest_it(values, count):
    centres = k_means(values, count)
    belongs = nearest(values, centres)
    for index, centre in enumerate(centres):
        assert centre == pytest.approx(values[belongs == index].mean(dtype=np.float64), rel=1e-4, abs=1e-5)


def test_k_means_finds_the_best_of_all_splits_of_clustered_values():
    draw = np.random.default_rng(0)
    values = np.sort(np.concatenate([centre + 0.05 * draw.normal(size=4) for centre in (-1, 0.2, 1)]))
    splits = itertools.combinations(range(1, len(values)), 2)
    best = min(
        sum(np.square(part - part.mean()).sum() for part in np.split(values, split)) for split in splits
    )
    values = values.astype(np.float32)
    assert _error(values, k_means(values, 3)) == pytest.approx(best, rel=1e-4)


def test_values_no_more_than_the_shared_ones_are_kept_as_they_are():
    values = np.float32([-1, 0.25, 0.25, 2])
    assert k_means(values, 4).tolist() == [-1, 0.25, 2]


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=4), elements=st.floats(-1e6, 1e6, width=32)))
def test_a_codebook_gives_back_every_value_exactly(values):
    tensor = from_codebook(values)
    assert np.array_equal(tensor.values, values)
    assert np.array_equal(tensor.symbols == 0, values == 0)
    assert tensor.codebook is not None
    assert tensor.codebook[tensor.zero] == 0
    assert (np.diff(tensor.codebook) > 0).all()


@given(hnp.arrays(np.float32, st.integers(0, 50), elements=st.floats(-1e3, 1e3, width=32)))
def test_uniform_values_are_within_half_a_step(values):
    tensor = uniform(values, 8)
    assert np.abs(tensor.symbols).max(initial=0) <= 127
    assert np.abs(tensor.values - values).max(initial=0) <= 0.5001 * tensor.step


def _pruned_and_shared(bits: int) -> tuple[torch.nn.Module, Shared]:
    model = small_model()
    Masked(model, magnitude_masks(model, {"": 0.5}))
    return model, Shared(model, dict.fromkeys(prunable(model), bits))


def test_a_layer_takes_no_more_values_than_its_bits_tell_apart():
    model, _ = _pruned_and_shared(bits=3)
    for weight in prunable(model).values():
        assert 1 < len(weight.unique()) <= 2**3
        assert (weight == 0).float().mean() > 0.3


def test_gradients_are_those_of_the_shared_values():
    model, shared = _pruned_and_shared(bits=2)
    images, labels = small_split().batch(np.arange(16), np.zeros(16, bool))
    F.cross_entropy(model(images), labels).backward()
    shared.before_update()
    layer = model[4]
    codebook = shared.learnt[1].detach().requires_grad_()
    belongs = (layer.weight.detach().reshape(-1, 1) - codebook.detach()).abs().argmin(1)
    weight = torch.where(layer.weight.detach().reshape(-1) == 0, 0.0, codebook[belongs])
    output = torch.func.functional_call(model, {"4.weight": weight.view_as(layer.weight)}, (images,))
    F.cross_entropy(output, labels).backward()
    members = torch.bincount(belongs[layer.weight.detach().reshape(-1) != 0])
    assert torch.allclose(shared.learnt[1].grad, codebook.grad / members, rtol=1e-4, atol=1e-7)


def test_training_shared_values_lowers_the_loss_and_keeps_their_number():
    model, shared = _pruned_and_shared(bits=3)
    zeros = {name: weight == 0 for name, weight in prunable(model).items()}
    settings = FineTuning(steps=20, lr=0.3, batch_size=16)
    first = fine_tune(model, small_split(), settings, shared)
    assert fine_tune(model, small_split(), settings, shared) < 0.8 * first
    for name, weight in prunable(model).items():
        assert len(weight.unique()) <= 2**3
        assert torch.equal(weight == 0, zeros[name])
