"""Compresses a trained model: `distsqz compress CHECKPOINT --out m.sqz --calibration DIR | --data DATA`."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import tyro
from rich.console import Console
from rich.progress import Progress, track
from torch import nn
from tyro.conf import OmitArgPrefixes, Positional

from distsqz.cli.train_compressed import CompressionTraining, compress_by_training, report
from distsqz.data.class_folders import LabelledFiles
from distsqz.errors import RequestError, RunError, renamed_fields, require_at_least
from distsqz.report.formats import prose, render, to_json
from distsqz.report.section import Format
from distsqz.weights.agreement import Agreement, agreement, logits_of, top_k_accuracy
from distsqz.weights.archive import decode, write_archive
from distsqz.weights.crops import CROPS_PER_BATCH, random_crops
from distsqz.weights.curvature import measure_curvature
from distsqz.weights.images import batches, check_labels, find_images
from distsqz.weights.layer_sizes import layer_sizes
from distsqz.weights.quantised import ModelInfo
from distsqz.weights.rate_distortion import Trade
from distsqz.weights.readers import load_model
from distsqz.weights.search import PROBES, Candidate, check_compressible, compress, install, search

STDERR = Console(stderr=True)


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """Compression without training: images show which errors in the weights matter."""

    calibration: Path | None = None
    """Folder of images in class folders. Half of the images choose the compression, the other half evaluate
    it."""
    target_bytes: int | None = None
    """Maximum size of the archive, in bytes. The most accurate archive within it is made."""
    max_drop: float | None = None
    """Maximum loss of top-1 and of top-5 accuracy on the half of the images that chooses, in percentage
    points. The smallest archive within it is made. By default 1, unless a size is given."""
    images: int = 1000
    """Maximum number of images taken from the folder, spread evenly over it."""
    views: int = 8
    """Number of random crops of each image on which curvature is measured."""

    def __post_init__(self) -> None:
        """Raises RequestError for values out of range, or that contradict."""
        if self.target_bytes is not None and self.max_drop is not None:
            raise RequestError("--target-bytes and --max-drop: give one of them, the other follows")
        require_at_least(self, {"target_bytes": 1, "views": 1})
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise RequestError(f"--max-drop {self.max_drop}: must be from 0 to 100 points")
        if self.images < 2:
            raise RequestError(
                f"--images {self.images}: must be at least 2, one to choose by, one to judge by"
            )


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `distsqz compress`."""

    checkpoint: Annotated[Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    """File of weights: .pth, .safetensors, .sqz, SqueezeNet's published .net, or ndf's .pkl."""
    out: Path
    """Archive to write, by convention with the suffix .sqz."""
    model: str | None = None
    """Name of the registered model, for files that do not identify it. By default the first model that has
    exactly these tensors: squeezenet, for example, for a file of squeezenet_simple_bypass."""
    by_calibration: OmitArgPrefixes[CalibrationOptions] = field(default_factory=CalibrationOptions)
    by_training: OmitArgPrefixes[CompressionTraining] = field(default_factory=CompressionTraining)
    format: Format = "table"
    """Format of the tables on stdout."""
    debug: bool = False
    """On an error, print Python's traceback as well as the message."""


def main(options: Options) -> None:
    """Reads the weights, compresses them, writes the archive and evaluates it."""
    calibration, training = options.by_calibration, options.by_training
    if (calibration.calibration is None) == (training.data is None):
        raise RequestError("give either --calibration, a folder of images, or --data, images to train on")
    mode, unused, defaults = (
        ("--data", training, CompressionTraining())
        if calibration.calibration is not None
        else ("--calibration", calibration, CalibrationOptions())
    )
    for name, value in vars(unused).items():
        if value != getattr(defaults, name):
            raise RequestError(f"--{name.replace('_', '-')} {value}: goes with {mode}, which was not given")
    if not options.out.parent.is_dir():
        raise RequestError(f"--out {options.out}: there is no folder {options.out.parent}")
    if options.out.is_dir() or not os.access(options.out.parent, os.W_OK):
        raise RequestError(f"--out {options.out}: cannot be written; name a file in a folder of your own")
    info, model = load_model(options.checkpoint, options.model)
    if calibration.calibration is None:
        trained = compress_by_training(model, info, training)
        print(report(trained, write_archive(options.out, trained.model), options.format))
        return
    check_compressible(model, info)
    choosing, judging = _halves(_images(calibration, info))
    candidate = _search(model, info, choosing, calibration)
    write_archive(options.out, candidate.model)
    twin = install(model, decode(options.out.read_bytes()))
    halves = {"choosing": choosing, "judging": judging}
    judged = {name: (len(images), _judge(model, twin, info, images)) for name, images in halves.items()}
    print(_report(candidate, model, judged, options.format))


def _images(options: CalibrationOptions, info: ModelInfo) -> LabelledFiles:
    assert options.calibration is not None
    with renamed_fields(directory="calibration"):
        every, left_out = find_images(options.calibration)
    if line := left_out.describe(f"--calibration {options.calibration}"):
        print(line, file=sys.stderr)
    images = every.spread(options.images)
    check_labels(torch.from_numpy(images.labels), info, "calibration", options.calibration)
    return images


def _halves(images: LabelledFiles) -> tuple[LabelledFiles, LabelledFiles]:
    """Splits images alternately, so that both halves hold images of neighbouring classes."""
    if len(images) < 2:
        raise RequestError(f"--calibration: {len(images)} image, must hold at least 2")
    return images[::2], images[1::2]


def _search(
    model: nn.Module, info: ModelInfo, images: LabelledFiles, options: CalibrationOptions
) -> Candidate:
    views = random_crops(images.paths, info.preprocessing, options.views)
    total = math.ceil(options.views * len(images) / CROPS_PER_BATCH)
    curvatures = measure_curvature(model, track(views, "which errors matter", total, console=STDERR))
    reference = logits_of(model, batches(images, info.preprocessing))
    labels = torch.from_numpy(images.labels)
    allowed = (1.0 if options.max_drop is None else options.max_drop) / 100
    if options.target_bytes is None and top_k_accuracy(reference, labels, 1) <= allowed:
        raise RequestError(
            f"--calibration {options.calibration}: {info.name} gets hardly any of its labels right, so "
            "that no loss of accuracy would show; give --target-bytes instead of --max-drop"
        )

    def suits(candidate: Candidate) -> bool:
        if options.target_bytes is not None:
            return len(candidate.archive) <= options.target_bytes
        twin = install(model, candidate.model)
        result = agreement(reference, logits_of(twin, batches(images, info.preprocessing)), labels)
        lost = max(result.reference_top1 - result.top1, result.reference_top5 - result.top5)
        return lost <= allowed + 1e-6  # shares are not exact in binary

    with Progress(console=STDERR, transient=True) as progress:
        task = progress.add_task("price of a bit", total=PROBES)

        def compress_at(trade: Trade) -> Candidate:
            candidate = compress(model, info, curvatures, trade)
            description = f"{trade.nats_per_bit:.2g} nats a bit: {len(candidate.archive):,} bytes"
            progress.update(task, advance=1, description=description)
            return candidate

        best = search(compress_at, suits, smallest=options.target_bytes is None)
    if best is None and options.target_bytes is not None:
        raise RunError(f"--target-bytes {options.target_bytes}: {info.name} cannot be made that small")
    if best is None:
        raise RunError(f"--max-drop {100 * allowed:g}: no archive of {info.name} loses so little")
    return best


def _judge(model: nn.Module, twin: nn.Module, info: ModelInfo, images: LabelledFiles) -> Agreement:
    """Compares the predictions of the archive with those of the original on the same images."""
    before, after = (logits_of(each, batches(images, info.preprocessing)) for each in (model, twin))
    return agreement(before, after, torch.from_numpy(images.labels))


def _report(
    candidate: Candidate, model: nn.Module, judged: dict[str, tuple[int, Agreement]], fmt: Format
) -> str:
    layers = [
        asdict(share)
        for share in layer_sizes(candidate.model, getattr(model, "layer_names", {}), candidate.damage_nats)
    ]
    halves = [{"half": name, "images": count, **asdict(result)} for name, (count, result) in judged.items()]
    size = len(candidate.archive)
    if fmt == "json":
        return to_json({"archive_bytes": size, "halves": halves, "layers": layers})
    original = sum(parameter.numel() * 4 for parameter in model.parameters())
    summary = f"{size:,} bytes: {original / size:.1f}x fewer than {original:,}, the model in fp32."
    tables = [render(pd.DataFrame(layers), fmt), render(pd.DataFrame(halves), fmt)]
    return "\n".join(tables if fmt == "csv" else [*tables, prose([summary], fmt)])
