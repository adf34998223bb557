"""Bootstrap intervals: how sure a median, or a ratio of two step times, is.

An interval is the percentiles of the resampled statistic, widened for small samples until it is about as wide
as Student's t would be; with ten blocks of steps or fewer the plain percentiles are too sure of themselves.

Source: Hesterberg, "What Teachers Should Know About the Bootstrap" (2015), the expanded percentile interval.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import special

# scipy.stats.bootstrap would do most of this, but its import alone takes half a second of the report's start.

Floats = NDArray[np.float64]
Interval = tuple[float, float]

RESAMPLES = 4000
CONFIDENCE = 0.95
FEWEST = 3
"""Values below which a median gets no interval."""
FEWEST_PAIRS = 6
"""Values on either side below which a ratio gets no interval: fewer say too little of their own spread."""

_SEED = 20160224


def median_interval(sample: Floats) -> Interval | None:
    """The 95% interval of a sample's median; None below three values."""
    if len(sample) < FEWEST:
        return None
    return _interval(_resampled_medians(sample, _rng()), len(sample))


def paired_ratio(numerators: Floats, denominators: Floats) -> tuple[float, Interval | None]:
    """The geometric mean of paired ratios and its 95% interval, pairs resampled whole.

    What slows both of a pair alike cancels out of their ratio, and the geometric mean of a / b is one over
    that of b / a. The interval is None below `FEWEST_PAIRS` pairs.
    """
    logs = np.log(numerators / denominators)
    ratio = math.exp(logs.mean())
    if len(logs) < FEWEST_PAIRS:
        return ratio, None
    low, high = _interval(_resampled_means(logs, _rng()), len(logs))
    return ratio, (math.exp(low), math.exp(high))


def unpaired_ratio(numerators: Floats, denominators: Floats) -> tuple[float, Interval | None]:
    """The ratio of two medians and its 95% interval, the samples resampled each on its own.

    The interval is None where either has fewer than `FEWEST_PAIRS` values.
    """
    ratio = float(np.median(numerators) / np.median(denominators))
    fewest = min(len(numerators), len(denominators))
    if fewest < FEWEST_PAIRS:
        return ratio, None
    rng = _rng()
    ratios = _resampled_medians(numerators, rng) / _resampled_medians(denominators, rng)
    return ratio, _interval(ratios, fewest)


def _rng() -> np.random.Generator:
    return np.random.default_rng(_SEED)


def _resampled_means(sample: Floats, rng: np.random.Generator) -> Floats:
    """Means of RESAMPLES samples drawn with replacement."""
    size = len(sample)
    return np.array([sample[rng.integers(size, size=size)].mean() for _ in range(RESAMPLES)])


def _resampled_medians(sample: Floats, rng: np.random.Generator) -> Floats:
    """Medians of RESAMPLES samples drawn with replacement, in a time that hardly grows with the sample.

    To draw from the sample is to draw uniformly between 0 and 1 and look up that quantile, so the median of a
    resample sits at the median of as many uniform draws. The k-th smallest of n of those is distributed as
    Beta(k, n - k + 1); an even n has two in the middle, and the gap between them is drawn likewise.
    """
    ordered, size = np.sort(sample), len(sample)
    k = (size + 1) // 2
    lower = rng.beta(k, size - k + 1, RESAMPLES)
    upper = lower if size % 2 else lower + (1 - lower) * rng.beta(1, size - k, RESAMPLES)
    middle: Floats = ordered[(lower * size).astype(int)] + ordered[(upper * size).astype(int)]
    return middle / 2


def _interval(replicates: Floats, sample_size: int) -> Interval:
    t = special.stdtrit(sample_size - 1, (1 + CONFIDENCE) / 2)
    tail = special.ndtr(-math.sqrt(sample_size / (sample_size - 1)) * t)
    low, high = np.quantile(replicates, [tail, 1 - tail])
    return float(low), float(high)
