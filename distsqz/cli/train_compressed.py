"""Deep Compression with training, for `distsqz compress`: options, data and the report of the result."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import pandas as pd
from torch import nn

from distsqz.data import ImageData, evaluation_batches, open_data
from distsqz.models.registry import default_image_size
from distsqz.report.formats import prose, render, to_json
from distsqz.report.section import Format
from distsqz.training.evaluation import count_correct
from distsqz.weights.coder import encode_symbols
from distsqz.weights.deep_compress import DeepCompressOptions, deep_compress
from distsqz.weights.quantised import CompressedModel, ModelInfo

EVALUATION_BATCH = 100
"""Images per forward pass when accuracy is measured."""


@dataclass(frozen=True, kw_only=True)
class CompressionTraining(DeepCompressOptions):
    """Compression with training: prune, fine-tune, share values, fine-tune the shared values."""

    data: str | None = None
    """Images to train on, instead of a calibration without training: fashion-mnist[:DIR], cifar10:DIR,
    imagefolder:PATH or synthetic."""
    image_size: int | None = None
    """Height and width of the images, in pixels. By default the size that the model was made for."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model compressed with training."""

    model: CompressedModel
    accuracy: float | None
    """Share of the validation images that are classified correctly; None if the data has none."""
    accuracy_before: float | None
    """The same share before compression."""


def compress_by_training(model: nn.Module, info: ModelInfo, options: CompressionTraining) -> Trained:
    """Compresses `model` in place on `options.data`.

    Raises:
        RequestError: the data cannot be had or has more classes than the model; an option names no layer.
        RunError: the training fails.
    """
    image_size = default_image_size(info.name) if options.image_size is None else options.image_size
    data = open_data(
        options.data or "", image_size=image_size, seed=options.seed, num_classes=info.num_classes
    )
    if data.left_out:
        print(data.left_out, file=sys.stderr)
    info = replace(info, preprocessing=data.preprocessing)
    before = _accuracy(model, data)
    compressed = deep_compress(model, data.train, info, options)
    return Trained(model=compressed, accuracy=_accuracy(model, data), accuracy_before=before)


def report(trained: Trained, archive_bytes: int, fmt: Format) -> str:
    """Formats the result: a table of the layers and a summary line, or one JSON object."""
    layers = [
        {
            "tensor": name,
            "weights": tensor.symbols.size,
            "density": float((tensor.symbols != 0).mean()),
            "values": None if tensor.codebook is None else len(tensor.codebook),
            "bytes": (size := len(encode_symbols([tensor.symbols])[1])),
            "bits_per_weight": 8 * size / max(1, tensor.symbols.size),
        }
        for name, tensor in trained.model.tensors.items()
    ]
    if fmt == "json":
        return to_json(
            {
                "archive_bytes": archive_bytes,
                "accuracy": trained.accuracy,
                "accuracy_before": trained.accuracy_before,
                "layers": layers,
            }
        )
    original = sum(4 * tensor.symbols.size for tensor in trained.model.tensors.values())
    summary = [f"{archive_bytes:,} bytes: {original / archive_bytes:.1f}x fewer than {original:,}, in fp32."]
    if trained.accuracy is not None and trained.accuracy_before is not None:
        summary.append(f"Validation accuracy {trained.accuracy:.2%}, {trained.accuracy_before:.2%} before.")
    table = render(pd.DataFrame(layers), fmt)
    return table if fmt == "csv" else "\n".join([table, prose(summary, fmt)])


def _accuracy(model: nn.Module, data: ImageData) -> float | None:
    if data.validation is None:
        return None
    batches = evaluation_batches(data.validation, rank=0, world_size=1, batch_size=EVALUATION_BATCH)
    seen, right, _loss = count_correct(model.eval(), batches)
    return right / seen
