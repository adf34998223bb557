"""Memory of models (weights, live tensors, workspace) compared with the on-chip memory of real devices.

`distsqz/models/memory.py` describes how tensors are counted. Weights are parameters, buffers and constants.
A precision determines the bytes of every weight and activation: 4, 2 or 1. Under int8, biases have 32 bits,
because integer kernels add them to 32-bit sums, and scales are not counted. Integers, such as index tables,
keep their size. A total is the weights and the maximum of live tensors and workspace together. The workspace
in it is im2col for one row of the output at a time; a separate column shows im2col for the whole input. An
archive is stored as it is; its model computes in int8, and the codes of one layer at a time, one byte each,
are decoded into memory (`decode_bytes`). If a model has an operation that is not understood, activations,
workspace and total are null.

All memories on the chip of a device count as one, regardless of buses and banks, and as empty: a verdict says
what cannot fit, and what might. For a Zynq only the memory of its programmable logic is listed.

The csv format prints only the table of what fits; the other formats print all tables.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from distsqz.errors import RequestError
from distsqz.models.layers import layer_table
from distsqz.models.memory import Step, memory_steps, stored_tensors
from distsqz.models.registry import ModelOptions, build_model, image_size_of
from distsqz.report.formats import render, to_json
from distsqz.report.section import Format
from distsqz.weights.readers import outline, read_compressed

Precision = Literal["fp32", "fp16", "int8"]

BYTES_A_VALUE: dict[str, int] = {"fp32": 4, "fp16": 2, "int8": 1}
BYTES_A_BIAS: dict[str, int] = {"fp32": 4, "fp16": 2, "int8": 4}
DEVICES = Path(__file__).with_name("devices.csv")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Models to compare, their precisions and the image size."""

    models: tuple[str, ...] = ("squeezenet", "squeezenet1_1", "alexnet", "alexnet_bvlc")
    """Models to compare: names of registered models, or package.module:factory for a model of your own."""
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    """Precisions of weights and activations."""
    archive: Path | None = None
    """Compressed archive (.sqz) of one of the models. It adds a row in which its size replaces that of the
    weights."""
    image_size: int | None = None
    """Height and width of the image, in pixels. By default the size that each model was made for."""
    num_classes: int | None = None
    """Number of classes. By default 1000, or the number that a model of your own has."""
    format: Format = "table"
    """Format of the result on stdout. csv prints only the table of what fits."""
    debug: bool = False
    """On an error, print Python's traceback as well as the message."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Memory that a model needs at one precision, for one image."""

    model: str
    weights: str
    """Form of the weights: a precision, or `archive`."""
    image_size: int
    weights_bytes: int
    activation_bytes: int | None
    """Maximum size of the live tensors over all operations; None if an operation is not understood."""
    activation_peak: str | None
    """Operation at which the live tensors have their maximum size."""
    im2col_bytes: int | None
    """Largest im2col matrix of a convolution that unfolds its whole input."""
    row_im2col_bytes: int | None
    """Largest im2col matrix of a convolution that unfolds its input for one row of the output at a time."""
    decode_bytes: int
    """Codes of the largest layer, decoded from an archive; 0 without an archive."""
    total_bytes: int | None
    """Weights, decoded codes, and the maximum of live tensors and im2col matrix together."""
    not_understood: tuple[str, ...] = ()
    """Operations that leave activations, im2col and total unknown (None), each with the reason."""


def main(options: Options) -> None:
    """Prints the memory that models need, the memory of devices, and which model fits into which device."""
    _refuse_none_or_twice("--models", options.models)
    _refuse_none_or_twice("--precisions", options.precisions)
    needs = [row for name in options.models for row in footprints(name, options)]
    if options.archive is not None:
        needs.append(archive_footprint(options.archive, options))
    budgets = devices()
    print(
        "One image, forward. Tensors count while an operation still needs them; a concatenation's parts are "
        "written into its result, ReLU in place where the model says so. Totals hold im2col a row at a time.",
        file=sys.stderr,
    )
    for model, reasons in {row.model: row.not_understood for row in needs if row.not_understood}.items():
        print(f"{model}: activations and workspace are unknown; {'; '.join(reasons)}", file=sys.stderr)
    fits = fits_frame(needs, budgets)
    if options.format == "json":
        print(
            to_json(
                {
                    "footprints": [asdict(row) for row in needs],
                    "devices": budgets.to_dict("records"),
                    "fits": fits.to_dict("records"),
                }
            )
        )
    else:
        print("\n\n".join(tables(needs, budgets, fits, options.format)))


def tables(needs: list[Footprint], budgets: pd.DataFrame, fits: pd.DataFrame, fmt: Format) -> list[str]:
    """Tables of needs, devices and fits; for csv only the fits, one row for each model and device."""
    if fmt == "csv":
        return [render(fits, fmt)]
    # As objects, so that an integer beside a null stays one.
    needs_table = pd.DataFrame([asdict(row) for row in needs], dtype=object).drop(columns="not_understood")
    matrix = fits.pivot(index=["model", "weights"], columns="device", values="fits")
    rows = [(row.model, row.weights) for row in needs]
    matrix = matrix.loc[rows, budgets["device"]].rename_axis(columns=None).reset_index()
    legend = (
        "What fits (all: in memory on the chip; flash: weights in flash on the chip, the rest in memory; "
        "weights: they alone, in either; no; a dash: unknown)"
    )
    return [
        render(needs_table, fmt, "What models need, for one image"),
        render(budgets, fmt, "What devices have on the chip"),
        render(matrix, fmt, legend),
    ]


def footprints(name: str, options: Options) -> list[Footprint]:
    """The footprint of a model at each precision."""
    asked = ModelOptions(model=name, image_size=options.image_size)
    with torch.device("meta"):  # Shapes are all that is wanted: nothing is allocated or computed.
        model = build_model(asked, options.num_classes)
    image_size = image_size_of(asked)
    steps = memory_steps(model, image_size)
    stored = stored_tensors(model, image_size)
    return [
        _footprint(name, kept, image_size, steps, BYTES_A_VALUE[kept], weights_bytes(stored, kept))
        for kept in options.precisions
    ]


def archive_footprint(archive: Path, options: Options) -> Footprint:
    """The needs of the model in an archive, for images as it expects them.

    Raises:
        RequestError: it cannot be read, or is of a model that was not asked for.
    """
    info = read_compressed(archive).info
    if info.name not in options.models:
        raise RequestError(f"--archive {archive}: is of {info.name}; name that in --models")
    model = outline(info)
    image_size = info.preprocessing.crop if options.image_size is None else options.image_size
    steps = memory_steps(model, image_size)
    largest_layer = max(layer.params for layer in layer_table(model, image_size))
    size = archive.stat().st_size
    return _footprint(info.name, "archive", image_size, steps, 1, size, largest_layer)


def weights_bytes(stored: Iterable[Tensor], precision: str) -> int:
    """Bytes of all stored tensors; those of one dimension are biases or scales, and as wide as a bias."""
    return sum(tensor.numel() * _bytes_a_value(tensor, precision) for tensor in stored)


def _bytes_a_value(tensor: Tensor, precision: str) -> int:
    if not tensor.is_floating_point():
        return tensor.element_size()
    return (BYTES_A_BIAS if tensor.dim() <= 1 else BYTES_A_VALUE)[precision]


def devices() -> pd.DataFrame:
    """The budgets: device, kind, on_chip_bytes, flash_bytes (null where it has none), made_of, source."""
    return pd.read_csv(DEVICES, dtype={"on_chip_bytes": "Int64", "flash_bytes": "Int64"})


def fits_frame(needs: list[Footprint], budgets: pd.DataFrame) -> pd.DataFrame:
    """A row for each device and footprint: what is needed, what is there, and the verdict in `fits`."""
    return pd.DataFrame(
        [
            {
                "device": device["device"],
                "on_chip_bytes": device["on_chip_bytes"],
                "flash_bytes": device["flash_bytes"],
                "model": row.model,
                "weights": row.weights,
                "weights_bytes": row.weights_bytes,
                "total_bytes": row.total_bytes,
                "fits": verdict(row, device["on_chip_bytes"], device["flash_bytes"]),
            }
            for device in budgets.to_dict("records")
            for row in needs
        ],
        dtype=object,
    )


def verdict(need: Footprint, on_chip_bytes: int, flash_bytes: Any) -> str | None:
    """The best of: all in its memory, weights in its flash and the rest in memory, weights alone, none.

    None where that hangs on what activations and workspace take, and this is unknown.
    """
    in_flash = not pd.isna(flash_bytes) and need.weights_bytes <= flash_bytes
    weights_fit = in_flash or need.weights_bytes <= on_chip_bytes
    if need.total_bytes is None:
        return None if weights_fit else "no"
    if need.total_bytes <= on_chip_bytes:
        return "all"
    if in_flash and need.total_bytes - need.weights_bytes <= on_chip_bytes:
        return "flash"
    return "weights" if weights_fit else "no"


def _refuse_none_or_twice(option: str, given: tuple[str, ...]) -> None:
    """Refuses an option without values, or with a value twice, because rows could not be distinguished."""
    if not given:
        raise RequestError(f"{option}: none given; give at least one")
    for value in given:
        if given.count(value) > 1:
            raise RequestError(f"{option} {value}: given twice; name each once")


def _footprint(
    name: str,
    kept: str,
    image_size: int,
    steps: list[Step],
    value_bytes: int,
    weights: int,
    decode_bytes: int = 0,
) -> Footprint:
    not_understood = tuple(f"{step.name} ({step.not_understood})" for step in steps if step.not_understood)
    if not_understood:
        return Footprint(
            model=name,
            weights=kept,
            image_size=image_size,
            weights_bytes=weights,
            activation_bytes=None,
            activation_peak=None,
            im2col_bytes=None,
            row_im2col_bytes=None,
            decode_bytes=decode_bytes,
            total_bytes=None,
            not_understood=not_understood,
        )
    peak = max(steps, key=lambda step: step.live_values)
    most_values = max(step.live_values + step.im2col_row_values for step in steps)
    return Footprint(
        model=name,
        weights=kept,
        image_size=image_size,
        weights_bytes=weights,
        activation_bytes=peak.live_values * value_bytes,
        activation_peak=peak.name,
        im2col_bytes=max(step.im2col_values for step in steps) * value_bytes,
        row_im2col_bytes=max(step.im2col_row_values for step in steps) * value_bytes,
        decode_bytes=decode_bytes,
        total_bytes=weights + decode_bytes + most_values * value_bytes,
    )
