"""Cost of a model by layer, its totals, and a comparison with AlexNet.

Multiply-accumulates are counted from the operations that run, whether modules or functions call them. A
figure of a layer that is not understood is null, and so are the totals that include it; the layer is named.

The csv format prints only the table of layers; the other formats print all tables.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import torch

from distsqz.models.fire import FireArithmetic, fire_arithmetic
from distsqz.models.layers import Layer, layer_table, totals, totals_by_module
from distsqz.models.registry import (
    ModelOptions,
    build_model,
    check_model,
    default_image_size,
    image_size_of,
    smallest_image_size,
)
from distsqz.report.formats import render, to_json
from distsqz.report.section import Format

ALEXNETS = ("alexnet_bvlc", "alexnet")


@dataclass(frozen=True, kw_only=True)
class Options(ModelOptions):
    """Model to show, and format of the result."""

    format: Format = "table"
    """Format of the result on stdout. csv prints only the table of layers."""
    debug: bool = False
    """On an error, print Python's traceback as well as the message."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of a model for one image."""

    model: str
    image_size: int | None
    """Height and width of the image, in pixels; None if the model cannot take the requested size."""
    params: int
    tensors: int
    bytes: int
    """Bytes of the parameters."""
    macs: int | None
    """Multiply-accumulates; None if those of a layer are unknown, or if `image_size` is None."""
    weight_macs: int | None
    """The part of `macs` that multiplies by weights; the rest multiplies activations by each other."""


def main(options: Options) -> None:
    """Prints what `options.model` is made of."""
    model = build_model(options, options.num_classes)
    image_size = image_size_of(options)
    num_classes = check_model(model, image_size, options.num_classes, options.model)
    layers = layer_table(model, image_size)
    cost = _cost(options.model, model, image_size, layers)
    alexnets = [_alexnet_cost(name, options.image_size, num_classes) for name in ALEXNETS]
    print(
        f"{options.model}, {num_classes} classes; one image of {image_size}x{image_size}, forward; "
        "MACs of convolutions and matrix products, without biases and element-wise arithmetic",
        file=sys.stderr,
    )
    for line in remarks(cost, layers):
        print(line, file=sys.stderr)
    if options.format == "json":
        print(to_json(summary(cost, alexnets, layers)))
    else:
        print("\n\n".join(tables(cost, alexnets, layers, options.format)))


def remarks(cost: Cost, layers: list[Layer]) -> list[str]:
    """Lines that explain the figures: layers that are not understood, and what the total includes."""
    lines = [
        f"{layer.name} ({layer.kind}): not understood, its figures and the totals are unknown: "
        + ", ".join(layer.not_understood)
        for layer in layers
        if layer.not_understood
    ]
    if cost.macs != cost.weight_macs:
        lines.append(
            f"{cost.macs:,} MACs in all: {cost.weight_macs:,} multiply by weights (weight_macs), the others "
            "multiply activations by each other, as attention does"
        )
    return lines


def summary(cost: Cost, alexnets: list[Cost], layers: list[Layer]) -> dict[str, Any]:
    """The result as one JSON object."""
    return {
        "model": cost.model,
        "image_size": cost.image_size,
        "params": cost.params,
        "tensors": cost.tensors,
        "bytes": cost.bytes,
        "macs": cost.macs,
        "weight_macs": cost.weight_macs,
        "layers": [asdict(layer) for layer in layers],
        "modules": [{"name": name} | asdict(sums) for name, sums in totals_by_module(layers).items()],
        "versus_alexnet": {other.model: _versus(cost, other) for other in alexnets},
        "fire": asdict(fire_arithmetic()),
    }


def tables(cost: Cost, alexnets: list[Cost], layers: list[Layer], fmt: Format) -> list[str]:
    """The result as tables: by layer, by module where layers are parts of one, against AlexNet, Fire."""
    by_layer = render(_layers_frame(layers), fmt, f"{cost.model} by layer")
    if fmt == "csv":
        return [by_layer]
    printed = [by_layer]
    modules = totals_by_module(layers)
    if len(modules) < len(layers):
        rows = [{"module": name} | asdict(sums) for name, sums in modules.items()]
        printed.append(render(pd.DataFrame(rows, dtype=object), fmt, f"{cost.model} by module"))
    versus = [asdict(cost), *({"model": other.model} | _versus(cost, other) for other in alexnets)]
    printed.append(render(pd.DataFrame(versus, dtype=object), fmt, f"{cost.model} against AlexNet"))
    printed.append(render(_fire_frame(fire_arithmetic()), fmt, "One 3x3 convolution against one Fire module"))
    return printed


def _cost(name: str, model: torch.nn.Module, image_size: int | None, layers: list[Layer]) -> Cost:
    parameters = list(model.parameters())
    sums = totals(layers) if layers else None
    return Cost(
        model=name,
        image_size=image_size,
        params=sum(parameter.numel() for parameter in parameters),
        tensors=len(parameters),
        bytes=sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        macs=sums.macs if sums else None,
        weight_macs=sums.weight_macs if sums else None,
    )


def _alexnet_cost(name: str, asked_image_size: int | None, num_classes: int) -> Cost:
    """The cost of a version of AlexNet at the requested image size, by default at AlexNet's own."""
    image_size = asked_image_size or default_image_size(name)
    takes_it = image_size >= smallest_image_size(name)
    with torch.device("meta"):  # only shapes are needed: nothing is allocated or computed
        model = build_model(
            ModelOptions(model=name, image_size=image_size if takes_it else None), num_classes
        )
    layers = layer_table(model, image_size) if takes_it else []
    return _cost(name, model, image_size if takes_it else None, layers)


def _versus(cost: Cost, other: Cost) -> dict[str, Any]:
    """The cost of `other`, and its ratio to `cost` for parameters, bytes and multiply-accumulates."""
    return {key: value for key, value in asdict(other).items() if key != "model"} | {
        "params_ratio": other.params / cost.params,
        "bytes_ratio": other.bytes / cost.bytes,
        "macs_ratio": other.macs / cost.macs if other.macs and cost.macs else None,
    }


def _layers_frame(layers: list[Layer]) -> pd.DataFrame:
    total: Mapping[str, Any] = {"name": "total", "kind": "", "output_shape": ()} | asdict(totals(layers))
    rows = [*(asdict(layer) for layer in layers), total]
    # As objects, so that an integer beside a null stays one.
    frame = pd.DataFrame([{**row, "output_shape": _shape(row["output_shape"])} for row in rows], dtype=object)
    return frame.drop(columns="not_understood").rename(columns={"name": "layer", "output_shape": "output"})


def _shape(shape: tuple[int, ...] | None) -> str | None:
    return None if shape is None else "x".join(map(str, shape))


def _fire_frame(fire: FireArithmetic) -> pd.DataFrame:
    row = asdict(fire)
    return pd.DataFrame([row]).rename(columns={"reduction": "reduction_share", "ratio": "weights_ratio"})
