"""Evaluates a model on labelled images: `distsqz evaluate CHECKPOINT --data imagefolder:DIR`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import tyro
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from tyro.conf import Positional

from distsqz.data import evaluation_batches, open_data
from distsqz.data.class_folders import LabelledFiles
from distsqz.errors import RequestError, renamed_fields
from distsqz.report.formats import render
from distsqz.report.section import Format
from distsqz.weights.agreement import agreement, logits_of, top_k_accuracy
from distsqz.weights.images import BATCH, check_labels, find_images, labelled_batches
from distsqz.weights.quantised import ModelInfo
from distsqz.weights.readers import load_model

KNOWN = "imagefolder:DIR, fashion-mnist or fashion-mnist:DIR"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `distsqz evaluate`."""

    checkpoint: Annotated[Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    """File of weights: .pth, .safetensors, .sqz, SqueezeNet's published .net, or ndf's .pkl."""
    data: str
    """Labelled images: imagefolder:DIR (class folders, or a folder `val` that holds them; if `train` lies
    beside `val`, its folders number the classes), fashion-mnist or fashion-mnist:DIR (the test images)."""
    reference: Path | None = None
    """File of weights to compare predictions with. Each model receives the images as its weights expect
    them."""
    model: str | None = None
    """Name of the registered model, for files that do not identify it. By default the first model that has
    exactly these tensors."""
    image_size: int | None = None
    """Height and width to which Fashion-MNIST's images are scaled, in pixels. By default the size that the
    weights expect."""
    format: Format = "table"
    """Format of the table on stdout."""
    debug: bool = False
    """On an error, print Python's traceback as well as the message."""


def main(options: Options) -> None:
    """Reads the weights, evaluates them and prints the result."""
    if options.image_size is not None and not options.data.startswith("fashion-mnist"):
        raise RequestError(f"--image-size {options.image_size}: is for fashion-mnist; weights set the crop")
    info, model = load_model(options.checkpoint, options.model)
    reference = None if options.reference is None else _reference(options.reference, info, options.model)
    images = _images(options)
    logits, labels, took_s = _answers(options.checkpoint, model, info, images, options)
    row: dict[str, Any] = {
        "images": len(labels),
        "top1_share": top_k_accuracy(logits, labels, 1),
        "top5_share": top_k_accuracy(logits, labels, 5),
    }
    if options.reference is not None and reference is not None:
        other, other_model = reference
        expected, _, _ = _answers(options.reference, other_model, other, images, options)
        result = agreement(expected, logits, labels)
        row |= {"divergence_nats": result.divergence_nats, "same_top1_share": result.same_top1}
    print(render(pd.DataFrame([row | {"images_per_s": len(labels) / took_s}]), options.format))


def _reference(path: Path, info: ModelInfo, model: str | None) -> tuple[ModelInfo, nn.Module]:
    with renamed_fields(checkpoint="reference"):
        other, reference = load_model(path, model)
    if other.num_classes != info.num_classes:
        raise RequestError(
            f"--reference {path}: tells {other.num_classes} classes apart, CHECKPOINT {info.num_classes}"
        )
    return other, reference


def _images(options: Options) -> LabelledFiles | None:
    """The images of a folder; None if another source is requested."""
    source, _, place = options.data.partition(":")
    if source != "imagefolder" or not place:
        return None
    with renamed_fields(directory="data"):
        images, left_out = find_images(Path(place).expanduser())
    if line := left_out.describe(options.data):
        print(line, file=sys.stderr)
    return images


def _answers(
    path: Path, model: nn.Module, info: ModelInfo, images: LabelledFiles | None, options: Options
) -> tuple[Tensor, Tensor, float]:
    """Logits [n, classes], labels int64 [n], and the seconds spent in the model itself."""
    logits, labels, took_s = [], [], 0.0
    count, labelled = _labelled(info, images, options)
    description, batch_count = f"images through {path}", -(-count // BATCH)
    for pixels, own in track(labelled, description, batch_count, console=Console(stderr=True)):
        check_labels(own, info, "data", options.data)
        begin_s = time.perf_counter()
        logits.append(logits_of(model, [pixels]))
        took_s += time.perf_counter() - begin_s
        labels.append(own)
    return torch.cat(logits), torch.cat(labels), took_s


def _labelled(
    info: ModelInfo, images: LabelledFiles | None, options: Options
) -> tuple[int, Iterator[tuple[Tensor, Tensor]]]:
    """The number of images, and batches of images and labels."""
    if images is not None:
        return len(images), labelled_batches(images, info.preprocessing)
    if options.data.partition(":")[0] != "fashion-mnist":
        raise RequestError(f"--data {options.data}: not known or not complete; give {KNOWN}")
    size = info.preprocessing.crop if options.image_size is None else options.image_size
    split = open_data(options.data, image_size=size, seed=0).validation
    assert split is not None
    return len(split), evaluation_batches(split, rank=0, world_size=1, batch_size=BATCH)
