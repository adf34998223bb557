"""The paper's tables of compression agree with themselves and with the models, and take ours beside them."""

from __future__ import annotations

import pandas as pd
import torch

from distsqz.cli.compression import (
    ALEXNET_BVLC_BYTES,
    beside_published_layers,
    beside_published_models,
    published_layers,
    published_models,
)
from distsqz.models.layers import layer_table, totals_by_module
from distsqz.models.squeezenet import SqueezeNet


def ours() -> pd.DataFrame:
    """SqueezeNet, half of each layer pruned, a byte a nonzero value."""
    with torch.device("meta"):
        layers = [layer for layer in layer_table(SqueezeNet(), 224) if layer.params]
    return pd.DataFrame(
        [
            {
                "layer": layer.name,
                "params": layer.params,
                "nonzero": layer.params // 2,
                "bytes": layer.params // 2,
            }
            for layer in layers
        ]
    )


def test_published_layers_have_the_models_parameters_and_the_printed_totals() -> None:
    with torch.device("meta"):
        modules = totals_by_module(layer_table(SqueezeNet(), 224))
    table = published_layers().set_index("layer")
    assert table["params"].to_dict() == {name: sums.params for name, sums in modules.items() if sums.params}
    assert (table["params"].sum(), table["published_nonzero"].sum()) == (1_248_424, 421_098)


def test_published_ratios_are_those_of_240_megabytes_to_the_digits_printed() -> None:
    for row in published_models().to_dict("records"):
        assert abs(240e6 / row["size_bytes"] - row["size_ratio"]) <= 0.0125 * row["size_ratio"]


def test_layers_of_a_module_stand_beside_its_published_row() -> None:
    table = beside_published_layers(ours()).set_index("layer")
    assert list(table.index) == [*published_layers()["layer"], "total"]
    fire2 = table.loc["fire2"]
    assert (fire2["params"], fire2["published_nonzero"], fire2["nonzero"]) == (11_920, 5_746, 5_960)
    assert fire2["density_share"] == 0.5
    assert fire2["bits_per_nonzero"] == 8.0
    assert (table.loc["total", "published_nonzero"], table.loc["total", "params"]) == (421_098, 1_248_424)
    assert table.loc["total", "archive_bytes"] == ours()["bytes"].sum()


def test_a_model_that_the_paper_does_not_have_gets_nulls_not_zeros() -> None:
    rows = [{"layer": "fc6", "params": 10, "nonzero": 0, "bytes": 1}]
    table = beside_published_layers(pd.DataFrame(rows))
    assert table["published_nonzero"].isna().all()
    assert table["bits_per_nonzero"].isna().all()
    assert table["density_share"].tolist() == [0.0, 0.0]


def test_our_archive_is_the_last_row_against_the_real_bytes_of_alexnet() -> None:
    last = beside_published_models("squeezenet", 478_158, 57.0, None).iloc[-1]
    assert (last["method"], last["size_ratio"]) == ("this archive", ALEXNET_BVLC_BYTES / 478_158)
    assert last["size_ratio"] >= 510
    assert pd.isna(last["top5_percent"])
