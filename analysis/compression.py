"""The paper's Table 1 and Table 2 with our own figures beside them.

Source: Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size"
(2016), the columns of table 1 that count parameters, and table 2. Its sizes are in megabytes of 10^6 bytes,
its ratios against 240 of them, and its accuracies on ImageNet's validation images.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

LAYERS = Path(__file__).with_name("published_layers.csv")
MODELS = Path(__file__).with_name("published_models.csv")
ALEXNET_BVLC_BYTES = 243_860_896
"""What 240 MB stand for: 60,965,224 parameters of 4 bytes."""


def published_layers() -> pd.DataFrame:
    """Table 1: layer, params and published_nonzero (parameters after pruning), biases included."""
    return pd.read_csv(LAYERS)


def published_models() -> pd.DataFrame:
    """Table 2: model, method, size_bytes, size_ratio, top1_percent, top5_percent."""
    return pd.read_csv(MODELS)


def beside_published_layers(ours: pd.DataFrame) -> pd.DataFrame:
    """Table 1 with ours beside it, a row a module and one for the total.

    `ours` has a row a layer with its name (`fire2/squeeze1x1`), params, nonzero, bits (of a shared value) and
    bytes. Layers of a module are added up; its bits are the mean over nonzero values. Modules that the paper
    does not have get nulls for the published columns.
    """
    parts = ours.assign(layer=ours["layer"].str.partition("/")[0], value_bits=ours["bits"] * ours["nonzero"])
    modules = parts.groupby("layer", sort=False)[["params", "nonzero", "value_bits", "bytes"]].sum()
    joined = modules.reset_index().merge(
        published_layers()[["layer", "published_nonzero"]], on="layer", how="left"
    )
    # min_count: a sum over modules of which none was published is unknown, not zero.
    total = joined.drop(columns="layer").sum(min_count=1).to_frame().T.assign(layer="total")
    table = pd.concat([joined, total], ignore_index=True)
    return pd.DataFrame(
        {
            "layer": table["layer"],
            "params": table["params"].astype("Int64"),
            "published_nonzero": table["published_nonzero"].astype("Int64"),
            "nonzero": table["nonzero"].astype("Int64"),
            "published_density_share": table["published_nonzero"] / table["params"],
            "density_share": table["nonzero"] / table["params"],
            "mean_bits": table["value_bits"] / table["nonzero"].where(table["nonzero"] > 0),
            "archive_bytes": table["bytes"].astype("Int64"),
        }
    )


def beside_published_models(
    model: str, size_bytes: int, top1_percent: float | None, top5_percent: float | None
) -> pd.DataFrame:
    """Table 2 and our archive as its last row, its ratio against the real 243,860,896 bytes of AlexNet."""
    ours = {
        "model": model,
        "method": "this archive",
        "size_bytes": size_bytes,
        "size_ratio": ALEXNET_BVLC_BYTES / size_bytes,
        "top1_percent": top1_percent,
        "top5_percent": top5_percent,
    }
    return pd.DataFrame([*published_models().to_dict("records"), ours])
