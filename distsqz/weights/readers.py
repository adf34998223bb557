"""Readers of published files of weights, with the preprocessing that each expects."""

from __future__ import annotations

import io
import itertools
import math
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distsqz.errors import InvalidValue, RequestError, renamed_fields
from distsqz.models.preprocessing import CAFFE, Preprocessing, imagenet_preprocessing
from distsqz.models.registry import MODELS, ModelOptions, build_model, default_image_size
from distsqz.models.squeezenet import SqueezeNet
from distsqz.models.weights import read_weights, without_prefixes
from distsqz.weights.archive import MAGIC, decode
from distsqz.weights.errors import ArchiveError
from distsqz.weights.quantised import CompressedModel, ModelInfo

State = Mapping[str, Tensor]

MOST_CLASSES, LARGEST_CROP, LARGEST_RESIZE = 1 << 20, 4096, 8192
"""Limits for archives, because a model of one's own is built before its tensors can be compared."""


def read_model(checkpoint: Path, model: str | None = None) -> tuple[ModelInfo, State]:
    """Reads a file of weights: which model it holds, and the state dict.

    Archives (.sqz), SqueezeNet v1.0's published 8-bit `.net` and ndf's pickle of v1.1 (`.pkl`) identify their
    model. State dicts (.pth, .pt, .safetensors) do not.

    Args:
        checkpoint: the file.
        model: name of the model in the registry, for a state dict; by default the first model of the registry
            that has exactly these tensors.

    Raises:
        RequestError: the file cannot be read, or holds another model.
    """
    info, state = _read(checkpoint)
    if info is None:
        return _identify(state, model, checkpoint)
    if model not in (None, info.name):
        raise InvalidValue("model", model, f"{checkpoint} holds {info.name}")
    if ":" in info.name and model is None:  # a file alone must not choose which code runs
        raise InvalidValue(
            "checkpoint", checkpoint, f"is of a model of one's own; `model={info.name}` lets its code run"
        )
    return info, state


def read_compressed(archive: Path) -> CompressedModel:
    """Reads an archive (.sqz).

    Raises:
        InvalidValue: the file cannot be read, or is not a complete archive.
    """
    with renamed_fields(checkpoint="archive"):
        return _decoded(_content(archive), archive)


def read_state(checkpoint: Path) -> tuple[State, Preprocessing | None]:
    """Reads the state dict of any model, and how its images are prepared (None if the file does not say).

    Raises:
        InvalidValue: the file cannot be read.
    """
    info, state = _read(checkpoint)
    return state, info.preprocessing if info else None


def _read(path: Path) -> tuple[ModelInfo | None, State]:
    """The model that a file describes (None if it holds tensors alone), and the state dict."""
    content = _content(path)
    if content.startswith(MAGIC) or path.suffix == ".sqz":
        return _from_archive(content, path)
    match path.suffix:
        case ".net":
            info = ModelInfo(name="squeezenet", num_classes=1000, preprocessing=CAFFE, classifier_padding=1)
            return info, _from_net(content, path)
        case ".pkl":
            info = ModelInfo(name="squeezenet1_1", num_classes=1000, preprocessing=CAFFE)
            return info, _from_pickle(content, path)
        case ".safetensors":
            return None, _from_safetensors(content, path)
        case _:
            return None, read_weights(path)


def shapes_of(info: ModelInfo) -> dict[str, torch.Size]:
    """Shapes of a model's tensors, by name. No memory is allocated for a registered model.

    Raises:
        InvalidValue: there is no such model.
    """
    built = build(info) if ":" in info.name else outline(info)  # a model of one's own may need real tensors
    return {key: value.shape for key, value in built.state_dict().items()}


def outline(info: ModelInfo) -> nn.Module:
    """Builds a model on the meta device, without memory for its tensors.

    Raises:
        InvalidValue: there is no such model.
    """
    with torch.device("meta"):
        return build(info)


def build(info: ModelInfo) -> nn.Module:
    """Builds the model that a `ModelInfo` describes.

    Raises:
        InvalidValue: there is no such model.
    """
    options = ModelOptions(
        model=info.name,
        squeeze_ratio=info.squeeze_ratio,
        pct_3x3=info.pct_3x3,
        classifier_padding=info.classifier_padding,
        image_size=info.preprocessing.crop,
    )
    return build_model(options, info.num_classes)


def load_model(checkpoint: Path, model: str | None = None) -> tuple[ModelInfo, nn.Module]:
    """Builds the model that a file holds, with its weights, in evaluation mode.

    Args:
        checkpoint: the file.
        model: name of the model, for files that do not identify it.

    Raises:
        RequestError: the file cannot be read, or its tensors do not fit the model.
    """
    info, state = read_model(checkpoint, model)
    shapes = shapes_of(info)  # first, because a damaged file may ask for a huge model
    for name in {**shapes, **state}:
        if name not in shapes or name not in state or shapes[name] != state[name].shape:
            raise InvalidValue(
                "checkpoint", checkpoint, f"does not fit {info.name} ({_misfit(name, shapes, state)})"
            )
        if not state[name].isfinite().all():
            raise InvalidValue("checkpoint", checkpoint, f"{name} has values that are not finite")
    built = build(info)
    built.load_state_dict(dict(state))
    return info, built.eval()


def _misfit(name: str, shapes: Mapping[str, torch.Size], state: State) -> str:
    if name not in shapes:
        return f"it has no {name}"
    if name not in state:
        return f"{name} is missing"
    return f"{name} is {list(state[name].shape)} in place of {list(shapes[name])}"


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidValue("checkpoint", path, f"cannot be read ({error.strerror})") from error


def _decoded(content: bytes, path: Path) -> CompressedModel:
    try:
        return decode(content)
    except ArchiveError as error:
        raise InvalidValue("checkpoint", path, str(error)) from error


def _from_archive(content: bytes, path: Path) -> tuple[ModelInfo, State]:
    archive = _decoded(content, path)
    info = archive.info
    if not (1 <= info.num_classes <= MOST_CLASSES and 1 <= info.preprocessing.crop <= LARGEST_CROP):
        raise InvalidValue(
            "checkpoint",
            path,
            f"says {info.num_classes} classes and images of {info.preprocessing.crop} pixels; "
            f"at most {MOST_CLASSES} and {LARGEST_CROP} are believed",
        )
    images = info.preprocessing
    numbers = (images.scale, *images.mean, *images.std)
    if not (
        images.crop <= images.resize <= LARGEST_RESIZE
        and all(map(math.isfinite, numbers))
        and 0 not in (images.scale, *images.std)
    ):
        raise InvalidValue("checkpoint", path, f"no image can be prepared as it says ({images})")
    return info, {name: torch.from_numpy(values) for name, values in archive.state().items()}


def _from_safetensors(content: bytes, path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        state: State = load(content)
    except SafetensorError as error:
        raise InvalidValue("checkpoint", path, f"is not a safetensors file ({error})") from error
    return state


def _from_net(content: bytes, path: Path) -> State:
    """Reads pruned weights: 8-bit codes with a codebook for each layer, and 4-bit gaps between them.

    Layout: 26 counts of entries (uint32); for each layer 256 values (fp32), biases (fp32), a code for each
    entry (uint8; 0 fills gaps of more than 16), and the gaps, two per byte, the low half first.
    """
    model = SqueezeNet()
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    left = io.BytesIO(content)

    def take(dtype: str, count: int) -> NDArray[Any]:
        size = np.dtype(dtype).itemsize * count
        if len(piece := left.read(size)) < size:
            raise InvalidValue(
                "checkpoint",
                path,
                f"ends too early for SqueezeNet v1.0 in 8 bits; {len(content):,} bytes",
            )
        return np.frombuffer(piece, dtype)

    state: dict[str, Tensor] = {}
    for (name, layer), entries in zip(layers.items(), take("<u4", len(layers)).tolist(), strict=True):
        size = layer.weight.numel()
        if entries > size:
            raise InvalidValue(
                "checkpoint",
                path,
                f"{name} has {entries} entries for {size} weights; not SqueezeNet v1.0",
            )
        codebook, bias = take("<f4", 256), take("<f4", layer.out_channels)
        codes, packed = take("u1", entries), take("u1", (entries + 1) // 2)
        gaps = np.stack([packed & 15, packed >> 4], axis=1).ravel()[:entries].astype(np.int64)
        positions = np.cumsum(gaps + 1) - 1
        if entries and positions[-1] >= size:
            raise InvalidValue("checkpoint", path, f"the gaps in {name} lead past its {size} weights")
        weight = np.zeros(size, np.float32)
        weight[positions] = np.where(codes == 0, np.float32(0), codebook[codes])
        state[f"{name}.weight"] = torch.from_numpy(weight).view(layer.weight.shape)
        state[f"{name}.bias"] = torch.from_numpy(bias.copy())
    if left.read(1):
        raise InvalidValue("checkpoint", path, "goes on after SqueezeNet v1.0 in 8 bits")
    return state


class _Named:
    """Stands for an object in a pickle that is not needed."""

    def __init__(self, *_arguments: object) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("gives a state to what has none")


class _Dtype(_Named):
    """Stands for a numpy dtype: stores its name and its byte order."""

    def __init__(self, name: str, *_arguments: object) -> None:
        self.name, self.order = name, "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


class _Array(_Named):
    """Stands for a numpy array, which is made from its bytes. Their number must match its shape."""

    values: NDArray[Any]

    def __setstate__(self, state: Any) -> None:
        _version, shape, dtype, by_columns, content = state
        raw = (
            content.encode("latin1") if isinstance(content, str) else content
        )  # Python 2 wrote bytes as text
        if not isinstance(dtype, _Dtype) or dtype.name not in ("f4", "f8") or not isinstance(raw, bytes):
            raise pickle.UnpicklingError("has an array of other than floating-point numbers")
        values = np.frombuffer(raw, f"{dtype.order}{dtype.name}")
        self.values = values.reshape(shape, order="F" if by_columns else "C")


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that accepts only arrays. Nothing that the pickle names is called, not even numpy."""

    _ALLOWED: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy", "ndarray"): _Named,
        ("numpy", "dtype"): _Dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"names {module}.{name}, which no array needs") from None


def _from_pickle(content: bytes, path: Path) -> State:
    """Reads SqueezeNet v1.1 from a pickle: kernels [H, W, in, out] and biases [out] by layer name."""
    try:
        layers = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # unpickling can raise anything
        raise InvalidValue(
            "checkpoint", path, f"is not a pickle of arrays ({type(error).__name__}: {error})"
        ) from error
    model = SqueezeNet(version="1.1")
    modules = dict(model.named_modules())
    state: dict[str, Tensor] = {}
    for module_path, name in model.layer_names.items():
        module = modules.get(module_path)
        if not isinstance(module, nn.Conv2d):
            continue
        try:
            kernels, bias = (array.values.astype(np.float32) for array in layers[name])
            weight = torch.from_numpy(kernels.transpose(3, 2, 0, 1).copy()).reshape(module.weight.shape)
            state[f"{module_path}.weight"] = weight
            state[f"{module_path}.bias"] = torch.from_numpy(bias.copy()).reshape(module.out_channels)
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise InvalidValue("checkpoint", path, f"has no kernels and biases for {name} of v1.1") from error
    return state


def _identify(state: State, model: str | None, checkpoint: Path) -> tuple[ModelInfo, State]:
    """Finds the model whose tensors have these shapes; returns it, and the state dict under its names."""
    last = [tensor for tensor in state.values() if tensor.ndim == 1]
    classes = len(last[-1]) if last else 0
    names = MODELS if model is None else (model,)
    for name, (squeeze_ratio, pct_3x3) in itertools.product(names, [(None, None), *_fire_shapes(state)]):
        info = ModelInfo(
            name=name,
            num_classes=classes,
            squeeze_ratio=squeeze_ratio,
            pct_3x3=pct_3x3,
            preprocessing=imagenet_preprocessing(default_image_size(name)),
        )
        try:
            shapes = shapes_of(info)
        except RequestError:
            if model is not None and squeeze_ratio is None:
                raise
            continue
        named = without_prefixes(state, shapes)
        if shapes == {key: value.shape for key, value in named.items()}:
            return info, named
    raise InvalidValue(
        "checkpoint",
        checkpoint,
        f"does not hold the tensors of {model or 'a model of the registry; `model` names another'}",
    )


def _fire_shapes(state: State) -> Iterator[tuple[float, float]]:
    """Candidates for squeeze ratio and share of 3x3 filters of the Fire modules, the likeliest first."""
    squeezed, large = [], []
    for name in (key for key in state if key.endswith(".squeeze.weight")):
        expand1, expand3 = (state.get(name.replace("squeeze", f"expand{side}x{side}")) for side in (1, 3))
        if expand1 is None or expand3 is None or not expand1.ndim == expand3.ndim == state[name].ndim == 4:
            return
        expand = len(expand1) + len(expand3)
        squeezed.append((len(state[name]), expand))
        large.append((len(expand3), expand))
    if squeezed and all(expand for _, expand in squeezed):
        for digits in (2, 3, 9):  # ratios are usually round numbers
            yield round(_share(squeezed), digits), round(_share(large), digits)


def _share(parts: Sequence[tuple[int, int]]) -> float:
    """A share that gives every part when it is multiplied by the whole and rounded."""
    least = max((part - 0.5) / whole for part, whole in parts)
    most = min((part + 0.5) / whole for part, whole in parts)
    return (least + most) / 2
