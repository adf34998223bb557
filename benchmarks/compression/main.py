"""Bytes against divergence: `python benchmarks/compression/main.py CHECKPOINT --calibration DIR`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import tyro
from rich.console import Console
from rich.progress import track
from tyro.conf import Positional

from benchmarks.compression.other_coders import huffman_bytes, order0_bytes, xz_bytes, zstd_bytes
from distsqz.cli.command import run_command
from distsqz.report.formats import render
from distsqz.report.section import Format
from distsqz.weights.agreement import agreement, logits_of
from distsqz.weights.archive import decode, encode
from distsqz.weights.crops import random_crops
from distsqz.weights.curvature import measure_curvature
from distsqz.weights.images import batches, find_images
from distsqz.weights.rate_distortion import Trade
from distsqz.weights.readers import load_model
from distsqz.weights.search import compress, install


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to compress, and at which prices of a bit."""

    checkpoint: Annotated[Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    """Weights, as for launch/compress.py."""
    calibration: Path
    """Images in class folders: even ones are used for choosing, odd ones for judging."""
    prices: tuple[float, ...] = (2e-8, 3.2e-8, 5e-8, 8e-8, 1.3e-7, 2.1e-7)
    """Nats a bit; a point of the curve each."""
    views: int = 8
    """Random crops of each image that curvature is measured on."""
    archives: Path | None = None
    """A folder for the archives."""
    format: Format = "markdown"
    """Of the tables."""
    debug: bool = False
    """Print tracebacks."""


def main(options: Options) -> None:
    """Prints a row a price."""
    info, model = load_model(options.checkpoint)
    images, _left_out = find_images(options.calibration)
    halves = {"choosing": images[::2], "judging": images[1::2]}
    before = {name: logits_of(model, batches(half, info.preprocessing)) for name, half in halves.items()}
    views = random_crops(halves["choosing"].paths, info.preprocessing, options.views)
    console = Console(stderr=True)
    begin = time.perf_counter()
    curvatures = measure_curvature(model, track(list(views), "curvature", console=console))
    told = {"curvature_s": time.perf_counter() - begin}
    rows, sizes = [], []
    for price in track(options.prices, "prices", console=console):
        begin = time.perf_counter()
        candidate = compress(model, info, curvatures, Trade(nats_per_bit=price))
        told["compress_s"] = time.perf_counter() - begin
        if options.archives:
            (options.archives / f"{info.name}-{len(candidate.archive)}.sqz").write_bytes(candidate.archive)
        twin = install(model, decode(candidate.archive))
        row = {"nats_per_bit": f"{price:.2g}", "archive_bytes": len(candidate.archive)}
        for name, half in halves.items():
            after = logits_of(twin, batches(half, info.preprocessing))
            found = agreement(before[name], after, torch.from_numpy(half.labels))
            row |= {
                f"{name}_divergence_nats": f"{found.divergence_nats:.4f}",
                f"{name}_top1_change_points": f"{100 * (found.top1 - found.reference_top1):+.0f}",
                f"{name}_top5_change_points": f"{100 * (found.top5 - found.reference_top5):+.0f}",
                f"{name}_same_top1_share": found.same_top1,
            }
        rows.append(row)
        symbols = [tensor.symbols for tensor in candidate.model.tensors.values()]
        sizes.append(
            {
                "archive_bytes": len(candidate.archive),
                "order0_bytes": order0_bytes(symbols),
                "huffman_bytes": huffman_bytes(symbols),
                "xz_bytes": xz_bytes(symbols),
                "zstd_bytes": zstd_bytes(symbols),
            }
        )
        told |= {
            "encode_s": _seconds(lambda model=candidate.model: encode(model)),
            "decode_s": _seconds(lambda archive=candidate.archive: decode(archive)),
        }
    for table in (rows, sizes, [told]):
        print(render(pd.DataFrame(table), options.format), end="\n\n")


def _seconds(work) -> float:  # type: ignore[no-untyped-def]
    times: Sequence[float] = [_once(work) for _ in range(3)]
    return min(times)


def _once(work) -> float:  # type: ignore[no-untyped-def]
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


if __name__ == "__main__":
    run_command(main, Options, "Bytes against divergence, beside other coders.")
