"""Bootstrap intervals: they cover what they should, and narrow with more data."""

from __future__ import annotations

import numpy as np
import pytest

from distsqz.report.bootstrap import RESAMPLES, median_interval, paired_ratio, unpaired_ratio

RNG = np.random.default_rng(7)


def noisy(mean: float, count: int, rng: np.random.Generator, spread: float = 0.05) -> np.ndarray:
    return mean * np.exp(rng.normal(0, spread, count))


@pytest.mark.parametrize("pairs", [6, 20])
def test_interval_of_a_paired_ratio_covers_the_true_ratio_about_as_often_as_it_says(pairs: int) -> None:
    rng = np.random.default_rng(pairs)
    trials = 40
    intervals = [paired_ratio(noisy(3.0, pairs, rng), noisy(1.0, pairs, rng))[1] for _ in range(trials)]
    covered = sum(low <= 3.0 <= high for low, high in intervals)
    assert covered >= 0.8 * trials


@pytest.mark.parametrize("size", [6, 21])
def test_interval_of_a_median_covers_the_true_median_about_as_often_as_it_says(size: int) -> None:
    rng = np.random.default_rng(size)
    intervals = [median_interval(noisy(0.2, size, rng)) for _ in range(200)]
    covered = sum(low <= 0.2 <= high for low, high in intervals)
    assert covered >= 0.9 * 200


def test_interval_narrows_with_more_blocks() -> None:
    rng = np.random.default_rng(1)
    widths = []
    for blocks in (6, 20, 80, 320):
        low, high = paired_ratio(noisy(3.0, blocks, rng), noisy(1.0, blocks, rng))[1]
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < widths[0] / 4


def test_median_interval_is_that_of_medians_of_resamples_drawn_one_by_one() -> None:
    for size in (9, 10):
        sample = np.random.default_rng(3).normal(1.0, 0.1, size)
        drawn = np.median(np.random.default_rng(4).choice(sample, (RESAMPLES, size)), axis=1)
        low, high = median_interval(sample)
        assert low <= np.quantile(drawn, 0.025)
        assert high >= np.quantile(drawn, 0.975)
        assert np.quantile(drawn, 0.001) <= low
        assert high <= np.quantile(drawn, 0.999)


def test_drift_that_slows_both_of_a_pair_alike_cancels_out() -> None:
    drift = np.linspace(1.0, 5.0, 8)
    ratio, (low, high) = paired_ratio(3.0 * drift, drift)
    assert [ratio, low, high] == pytest.approx([3.0, 3.0, 3.0])


def test_paired_ratio_is_the_geometric_mean_and_turns_over_exactly() -> None:
    ratio, interval = paired_ratio(np.array([2.0, 8.0]), np.array([1.0, 1.0]))
    assert ratio == pytest.approx(4.0)
    assert interval is None
    assert paired_ratio(np.array([1.0, 1.0]), np.array([2.0, 8.0]))[0] == pytest.approx(0.25)


def test_unpaired_ratio_is_that_of_the_medians_and_covers_it() -> None:
    numerators, denominators = noisy(6.0, 30, RNG), noisy(2.0, 25, RNG)
    ratio, (low, high) = unpaired_ratio(numerators, denominators)
    assert ratio == pytest.approx(np.median(numerators) / np.median(denominators))
    assert low < 3.0 < high


def test_a_median_of_fewer_than_three_values_has_no_interval() -> None:
    assert median_interval(np.array([1.0, 2.0])) is None
    assert median_interval(np.array([1.0, 2.0, 3.0])) == (1.0, 3.0)


def test_a_ratio_of_fewer_than_six_values_has_no_interval() -> None:
    five, six = np.linspace(1, 2, 5), np.linspace(1, 2, 6)
    assert paired_ratio(five, five[::-1])[1] is None
    assert paired_ratio(six, six[::-1])[1] is not None
    assert unpaired_ratio(five, six)[1] is None
    assert unpaired_ratio(six, six)[1] is not None


def test_same_sample_gives_the_same_interval() -> None:
    sample = noisy(1.0, 12, RNG)
    assert median_interval(sample) == median_interval(sample)
