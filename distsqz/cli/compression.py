"""Comparison of an archive with tables 1 and 2 of the paper: `distsqz compression m.sqz`.

Source: Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size"
(2016), the columns of table 1 that count parameters, and table 2. Its sizes are in megabytes of 10^6 bytes,
its ratios against 240 of them, and its accuracies on ImageNet's validation images.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
import tyro
from tyro.conf import Positional

from distsqz.report.formats import render, to_json
from distsqz.report.section import Format
from distsqz.weights.layer_sizes import layer_sizes
from distsqz.weights.readers import outline, read_compressed

LAYERS = Path(__file__).with_name("published_layers.csv")
MODELS = Path(__file__).with_name("published_models.csv")
ALEXNET_BVLC_BYTES = 243_860_896
"""Bytes that the paper gives as 240 MB: 60,965,224 parameters of 4 bytes."""


def published_layers() -> pd.DataFrame:
    """Table 1: layer, params and published_nonzero (parameters after pruning), biases included."""
    return pd.read_csv(LAYERS)


def published_models() -> pd.DataFrame:
    """Table 2: model, method, size_bytes, size_ratio, top1_percent, top5_percent."""
    return pd.read_csv(MODELS)


def beside_published_layers(ours: pd.DataFrame) -> pd.DataFrame:
    """Table 1 with the columns of an archive, one row per module and one for the total.

    `ours` has a row a layer with its name (`fire2/squeeze1x1`), params, nonzero and bytes. Layers of
    a module are added up; what zeros cost counts for the nonzero ones. Modules that the paper does not have
    get nulls for the published columns.
    """
    parts = ours.assign(layer=ours["layer"].str.partition("/")[0])
    modules = parts.groupby("layer", sort=False)[["params", "nonzero", "bytes"]].sum()
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
            "bits_per_nonzero": 8 * table["bytes"] / table["nonzero"].where(table["nonzero"] > 0),
            "archive_bytes": table["bytes"].astype("Int64"),
        }
    )


def beside_published_models(
    model: str, size_bytes: int, top1_percent: float | None, top5_percent: float | None
) -> pd.DataFrame:
    """Table 2 with an archive as its last row, whose ratio refers to AlexNet's actual 243,860,896 bytes."""
    ours = {
        "model": model,
        "method": "this archive",
        "size_bytes": size_bytes,
        "size_ratio": ALEXNET_BVLC_BYTES / size_bytes,
        "top1_percent": top1_percent,
        "top5_percent": top5_percent,
    }
    return pd.DataFrame([*published_models().to_dict("records"), ours])


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `distsqz compression`."""

    archive: Annotated[Positional[Path], tyro.conf.arg(metavar="ARCHIVE")]
    """An .sqz archive of SqueezeNet."""
    top1_percent: float | None = None
    """Top-1 accuracy of the archive on ImageNet, in percent, for table 2 (as `distsqz evaluate` measures
    it)."""
    top5_percent: float | None = None
    """Top-5 accuracy of the archive on ImageNet, in percent, for table 2."""
    format: Format = "table"
    """Format of the tables on stdout."""
    debug: bool = False
    """On an error, print Python's traceback as well as the message."""


def main(options: Options) -> None:
    """Prints both tables."""
    model = read_compressed(options.archive)
    # A model of one's own is not built: its layers have no names in the paper.
    names = {} if ":" in model.info.name else getattr(outline(model.info), "layer_names", {})
    layers = beside_published_layers(pd.DataFrame(asdict(share) for share in layer_sizes(model, names)))
    size = options.archive.stat().st_size
    models = beside_published_models(model.info.name, size, options.top1_percent, options.top5_percent)
    if options.format == "json":
        print(to_json({"layers": layers.to_dict("records"), "models": models.to_dict("records")}))
        return
    print(render(layers, options.format, "Table 1: parameters after pruning"))
    print(render(models, options.format, "Table 2: size and accuracy on ImageNet"))
