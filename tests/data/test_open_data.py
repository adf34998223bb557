"""What --data takes, and the synthetic images that it gives by default."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distsqz.data import open_data
from distsqz.errors import RequestError


@pytest.mark.parametrize("spec", ["", "imagenet", "cifar10", "cifar10:", "imagefolder", "synthetic:there"])
def test_an_unknown_source_is_refused_with_its_value_and_the_known_ones(spec):
    with pytest.raises(RequestError) as refused:
        open_data(spec, image_size=8, seed=0)
    line = str(refused.value)
    assert line.startswith(f"data {spec}: ")
    assert "\n" not in line
    assert all(name in line for name in ("synthetic", "fashion-mnist", "cifar10:DIR", "imagefolder:PATH"))


def test_an_image_size_of_zero_and_a_negative_seed_are_refused():
    with pytest.raises(RequestError, match="image_size 0: "):
        open_data("synthetic", image_size=0, seed=0)
    with pytest.raises(RequestError, match="seed -1: "):
        open_data("synthetic", image_size=8, seed=-1)


def test_synthetic_images_are_the_same_for_the_same_seed_only():
    one, same, other = (
        open_data("synthetic", image_size=8, seed=seed).train.batch(np.arange(100), np.zeros(100, np.bool_))
        for seed in (5, 5, 6)
    )
    assert torch.equal(one[0], same[0])
    assert torch.equal(one[1], same[1])
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(one[1], other[1])


def test_synthetic_images_are_normalised_and_labelled_within_a_thousand_classes():
    data = open_data("synthetic", image_size=16, seed=0)
    images, labels = data.train.batch(np.arange(64), np.zeros(64, np.bool_))
    assert (len(data.train), data.num_classes, data.validation) == (65_536, 1000, None)
    assert images.shape == (64, 3, 16, 16)
    assert images.dtype == torch.float32
    assert abs(images.mean().item()) < 0.01
    assert abs(images.std().item() - 1) < 0.01
    assert labels.dtype == torch.int64
    assert 0 <= labels.min() < labels.max() < 1000


def test_a_flipped_synthetic_image_is_the_mirror_image():
    split = open_data("synthetic", image_size=8, seed=0).train
    where = np.array([7, 40, 65_535])
    plain, _ = split.batch(where, np.zeros(3, np.bool_))
    flipped, _ = split.batch(where, np.ones(3, np.bool_))
    assert torch.equal(flipped, plain.flip(3))
