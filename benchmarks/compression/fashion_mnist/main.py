"""Prune, fine-tune and share on Fashion-MNIST: `main.py train|compress --checkpoint FILE`."""

from __future__ import annotations

import csv
import sys
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from torch import nn

from distsqz.cli.command import run_command
from distsqz.data import ImageData, evaluation_batches, open_data
from distsqz.models.registry import ModelOptions, build_model, recipe_for
from distsqz.models.weights import load_weights
from distsqz.training.evaluation import count_correct
from distsqz.weights.archive import encode
from distsqz.weights.deep_compress import DeepCompressOptions, deep_compress
from distsqz.weights.fine_tune import FineTuning, Free, fine_tune
from distsqz.weights.quantised import CompressedModel, ModelInfo

IMAGE_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to do, with which model."""

    action: Annotated[Literal["train", "compress"], tyro.conf.Positional]
    """train: writes --checkpoint; compress: from there, and trains it as long without compressing it."""
    checkpoint: Path
    """The trained weights."""
    model: Literal["squeezenet", "alexnet"] = "squeezenet"
    """A name of the registry."""
    epochs: float = 3.0
    """train: passes over the training images, with the learning rate of the recipe, falling to 0."""
    lr: float = 0.005
    """train: learning rate, falling to 0."""
    threads: int = 1
    """That a step is computed by."""
    deep: DeepCompressOptions = field(default_factory=DeepCompressOptions)
    """How far to compress, and how long to train for it; seed and batch size hold for train too."""
    debug: bool = False
    """Print tracebacks."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of a model's weights."""

    model: str
    weights: str
    steps: int
    """Of training, after the checkpoint."""
    accuracy: float
    """On the 10,000 test images."""
    density: float
    file_bytes: int
    ratio: float
    """fp32 bytes over `file_bytes`."""
    seconds: float


def main(options: Options) -> None:
    """Trains, or compresses and prints the rows as CSV."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.deep.seed)
    data = open_data("fashion-mnist", image_size=IMAGE_SIZE, seed=0)
    model = build_model(ModelOptions(model=options.model, image_size=IMAGE_SIZE), data.num_classes)
    if options.action == "train":
        steps = round(options.epochs * (len(data.train) // options.deep.batch_size))
        _train(model, data, options, steps, options.lr)
        state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        torch.save({"model": state}, options.checkpoint)
        print(f"accuracy {_accuracy(model, data):.2%} after {steps} steps", file=sys.stderr)
        return
    load_weights(model, options.checkpoint)
    rows = csv.DictWriter(sys.stdout, [column.name for column in fields(Row)])
    rows.writeheader()
    for make in (_trained, _compressed, _trained_on):
        load_weights(model, options.checkpoint)
        rows.writerow(asdict(make(model, data, options)))
        sys.stdout.flush()


def _trained(model: nn.Module, data: ImageData, options: Options) -> Row:
    return _row("trained", model, data, options)


def _compressed(model: nn.Module, data: ImageData, options: Options) -> Row:
    info = ModelInfo(
        name=options.model,
        num_classes=data.num_classes,
        preprocessing=data.preprocessing,
    )
    started = time.perf_counter()
    compressed = deep_compress(model, data.train, info, options.deep)
    seconds = time.perf_counter() - started
    return _row("compressed", model, data, options, _steps(options), seconds, compressed)


def _trained_on(model: nn.Module, data: ImageData, options: Options) -> Row:
    """The same number of steps, nothing pruned: what the accuracy would have become."""
    started = time.perf_counter()
    _train(model, data, options, _steps(options), options.deep.lr_for(recipe_for(options.model)))
    return _row("trained on", model, data, options, _steps(options), time.perf_counter() - started)


def _steps(options: Options) -> int:
    return options.deep.fine_tune_steps + options.deep.share_steps


def _train(model: nn.Module, data: ImageData, options: Options, steps: int, lr: float) -> None:
    settings = FineTuning(
        steps=steps,
        lr=lr,
        weight_decay=recipe_for(options.model).weight_decay,
        batch_size=options.deep.batch_size,
        seed=options.deep.seed,
    )
    fine_tune(model, data.train, settings, Free(model), f"{options.model}, nothing pruned")


def _row(
    weights: str,
    model: nn.Module,
    data: ImageData,
    options: Options,
    steps: int = 0,
    seconds: float = 0.0,
    compressed: CompressedModel | None = None,
) -> Row:
    fp32_bytes = sum(parameter.nbytes for parameter in model.parameters())
    file_bytes = len(encode(compressed)) if compressed else fp32_bytes
    return Row(
        model=options.model,
        weights=weights,
        steps=steps,
        accuracy=_accuracy(model, data),
        density=_density(compressed) if compressed else 1.0,
        file_bytes=file_bytes,
        ratio=round(fp32_bytes / file_bytes, 2),
        seconds=round(seconds, 1),
    )


def _accuracy(model: nn.Module, data: ImageData) -> float:
    assert data.validation is not None
    seen, right, _loss = count_correct(
        model.eval(), evaluation_batches(data.validation, rank=0, world_size=1, batch_size=250)
    )
    return right / seen


def _density(compressed: CompressedModel) -> float:
    weights = [tensor for name, tensor in compressed.tensors.items() if name.endswith("weight")]
    kept = sum(np.count_nonzero(tensor.symbols) for tensor in weights)
    return round(kept / sum(tensor.symbols.size for tensor in weights), 4)


if __name__ == "__main__":
    run_command(main, Options, "Prune, fine-tune and share on Fashion-MNIST, and count what it costs.")
