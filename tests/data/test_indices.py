"""Which images each rank gets: claims on the arithmetic of shards, epochs and resumption."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsqz.data.indices import Indices, evaluation_indices, global_batches, training_indices
from distsqz.errors import RequestError

worlds = st.integers(1, 6)
batch_sizes = st.integers(1, 5)
seeds = st.integers(0, 2**32)


def steps(
    count: int, images: int, world_size: int, batch_size: int, seed: int, rank: int = 0, start_step: int = 0
) -> list[Indices]:
    plan = training_indices(
        images, rank=rank, world_size=world_size, batch_size=batch_size, seed=seed, start_step=start_step
    )
    return list(islice(plan, count))


@given(world_size=worlds, batch_size=batch_sizes, spare=st.integers(0, 40), seed=seeds)
def test_joined_batches_of_the_ranks_are_the_batches_of_one_process(world_size, batch_size, spare, seed):
    images = world_size * batch_size + spare
    ranks = [steps(12, images, world_size, batch_size, seed, rank=rank) for rank in range(world_size)]
    alone = steps(12, images, 1, world_size * batch_size, seed)
    for parts, (whole, whole_flips) in zip(zip(*ranks, strict=True), alone, strict=True):
        np.testing.assert_array_equal(np.concatenate([chosen for chosen, _ in parts]), whole)
        np.testing.assert_array_equal(np.concatenate([flips for _, flips in parts]), whole_flips)


@given(world_size=worlds, batch_size=batch_sizes, spare=st.integers(0, 40), seed=seeds)
def test_an_epoch_gives_no_image_twice_and_leaves_out_less_than_a_global_batch(
    world_size, batch_size, spare, seed
):
    global_batch = world_size * batch_size
    images = global_batch + spare
    count = global_batches(images, world_size, batch_size)
    seen = [
        image
        for rank in range(world_size)
        for chosen, _ in steps(count, images, world_size, batch_size, seed, rank=rank)
        for image in chosen
    ]
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(range(images))
    assert 0 <= images - len(seen) < global_batch


@given(start_step=st.integers(0, 30), world_size=worlds, seed=seeds)
def test_a_run_resumed_at_a_step_continues_as_if_it_had_never_stopped(start_step, world_size, seed):
    uninterrupted = steps(start_step + 5, 20, world_size, 3, seed)[start_step:]
    resumed = steps(5, 20, world_size, 3, seed, start_step=start_step)
    for (chosen, flips), (chosen_again, flips_again) in zip(uninterrupted, resumed, strict=True):
        np.testing.assert_array_equal(chosen, chosen_again)
        np.testing.assert_array_equal(flips, flips_again)


def test_epochs_and_seeds_each_have_their_own_order_and_flips():
    first, second = steps(2, 1000, 1, 1000, seed=0)
    (other,) = steps(1, 1000, 1, 1000, seed=1)
    for chosen, flips in (second, other):
        assert (chosen != first[0]).mean() > 0.9
        assert 0.4 < (flips == first[1]).mean() < 0.6


def test_half_of_the_images_are_flipped():
    ((_, flips),) = steps(1, 10_000, 1, 10_000, seed=3)
    assert 0.48 < flips.mean() < 0.52


@given(images=st.integers(0, 50), world_size=worlds, batch_size=batch_sizes)
def test_evaluation_sees_every_image_once_over_the_ranks_and_flips_none(images, world_size, batch_size):
    batches = [
        batch
        for rank in range(world_size)
        for batch in evaluation_indices(images, rank=rank, world_size=world_size, batch_size=batch_size)
    ]
    assert sorted(image for chosen, _ in batches for image in chosen) == list(range(images))
    assert all(0 < len(chosen) <= batch_size for chosen, _ in batches)
    assert not any(flips.any() for _, flips in batches)


def test_a_split_smaller_than_a_global_batch_is_refused_with_what_would_fit():
    with pytest.raises(
        RequestError, match=r"batch_size 64: on 4 workers a step takes 256 .* has 100; .*=25`$"
    ):
        global_batches(100, world_size=4, batch_size=64)
    with pytest.raises(RequestError, match=r"batch_size 1: .* has 3; give at most `workers=3`$"):
        global_batches(3, world_size=4, batch_size=1)


def test_a_batch_size_of_zero_is_refused():
    with pytest.raises(RequestError, match="batch_size 0: must be at least 1"):
        global_batches(100, world_size=1, batch_size=0)
