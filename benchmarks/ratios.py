"""How the benchmarks print a ratio."""

from __future__ import annotations


def shown(ratio: tuple[float, tuple[float, float] | None]) -> str:
    """A ratio and its 95% interval: 1.0123 [1.0011, 1.0240]."""
    value, interval = ratio
    return f"{value:.4f}" + (f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")
