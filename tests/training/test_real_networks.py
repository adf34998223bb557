"""Image classifiers of the transformers library train the same whatever the strategy."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from benchmarks.real_networks.main import NETWORKS, compare


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason="needs transformers: pip install transformers",
)
def test_real_networks_train_as_in_one_process_under_all_reduce_and_a_parameter_server(
    tmp_path: Path,
) -> None:
    comparisons, failures = compare(NETWORKS, tmp_path)
    assert not failures
    assert [each for each in comparisons if not each.agrees] == []
    assert [each for each in comparisons if each.change < 0.01] == []  # agree, and have been trained
