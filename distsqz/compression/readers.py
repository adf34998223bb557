"""Real weights from the files that they are published in, each with what its images must look like."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from distsqz.compression.archive import MAGIC, decode
from distsqz.compression.errors import ArchiveError
from distsqz.compression.quantised import CAFFE, ModelInfo, Preprocessing
from distsqz.errors import RequestError
from distsqz.models.registry import MODELS, ModelOptions, build_model, default_image_size
from distsqz.models.squeezenet import SqueezeNet
from distsqz.models.weights import read_weights

State = Mapping[str, Tensor]

MOST_CLASSES, LARGEST_CROP = 1 << 20, 4096
"""What an archive may ask for: a model of it is built and run once before its tensors are compared."""


def read_model(path: Path, model: str | None = None, option: str = "CHECKPOINT") -> tuple[ModelInfo, State]:
    """Which model a file holds, and its state dict.

    Archives (.sqz), SqueezeNet v1.0's published 8-bit `.net` and ndf's pickle of v1.1 (`.pkl`) tell what they
    are. Of state dicts (.pth, .pt, .safetensors) `model` names the model; where it is left out, the
    registry's first that has these very tensors is taken.

    Raises:
        RequestError: it cannot be read, or is not of that model; it names `option`.
    """
    content = _content(path, option)
    told = f"{option} {path}"
    if content.startswith(MAGIC) or path.suffix == ".sqz":
        info, state = _from_archive(content, told)
    elif path.suffix == ".net":
        info, state = (
            ModelInfo(name="squeezenet", num_classes=1000, preprocessing=CAFFE, classifier_padding=1),
            _from_net(content, told),
        )
    elif path.suffix == ".pkl":
        info, state = (
            ModelInfo(name="squeezenet1_1", num_classes=1000, preprocessing=CAFFE),
            _from_pickle(content, told),
        )
    else:
        state = (
            _from_safetensors(content, told) if path.suffix == ".safetensors" else read_weights(path, option)
        )
        return _told_by_tensors(state, model, told), state
    if model not in (None, info.name):
        raise RequestError(f"--model {model}: {path} holds {info.name}")
    if ":" in info.name and model is None:  # a file alone must not choose which code runs
        raise RequestError(f"{told}: is of a model of one's own; --model {info.name} lets its code run")
    return info, state


def read_state(path: Path, option: str = "--checkpoint") -> State:
    """The state dict alone, whatever model it is of.

    Raises:
        RequestError: it cannot be read; it names `option`.
    """
    if path.suffix in (".sqz", ".net", ".pkl"):
        return read_model(path, option=option)[1]
    if path.suffix == ".safetensors":
        return _from_safetensors(_content(path, option), f"{option} {path}")
    return read_weights(path, option)


def build(info: ModelInfo) -> nn.Module:
    """A model that the weights fit.

    Raises:
        RequestError: there is no such model.
    """
    options = ModelOptions(
        model=info.name,
        squeeze_ratio=info.squeeze_ratio,
        pct_3x3=info.pct_3x3,
        classifier_padding=info.classifier_padding,
        image_size=info.preprocessing.crop,
    )
    return build_model(options, info.num_classes)


def load_model(
    path: Path, model: str | None = None, option: str = "CHECKPOINT"
) -> tuple[ModelInfo, nn.Module]:
    """The model that a file holds, with its weights, in evaluation mode.

    Raises:
        RequestError: it cannot be read, or its tensors do not fit its model.
    """
    info, state = read_model(path, model, option)
    built = build(info)
    try:
        built.load_state_dict(dict(state))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise RequestError(f"{option} {path}: does not fit {info.name} ({reason})") from error
    return info, built.eval()


def _content(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestError(f"{option} {path}: cannot be read ({error.strerror})") from error


def _from_archive(content: bytes, told: str) -> tuple[ModelInfo, State]:
    try:
        archive = decode(content)
    except ArchiveError as error:
        raise RequestError(f"{told}: {error}") from error
    info = archive.info
    if not (1 <= info.num_classes <= MOST_CLASSES and 1 <= info.preprocessing.crop <= LARGEST_CROP):
        raise RequestError(
            f"{told}: says {info.num_classes} classes and images of {info.preprocessing.crop} pixels; "
            f"at most {MOST_CLASSES} and {LARGEST_CROP} are believed"
        )
    return info, {name: torch.from_numpy(values) for name, values in archive.state().items()}


def _from_safetensors(content: bytes, told: str) -> State:
    try:
        state: State = load_safetensors(content)
    except SafetensorError as error:
        raise RequestError(f"{told}: is not a safetensors file ({error})") from error
    return state


def _from_net(content: bytes, told: str) -> State:
    """Pruned weights as 8-bit codes, with a codebook a layer and 4-bit gaps between them.

    Layout: 26 entry counts (uint32); for each layer 256 values (fp32), biases (fp32), a code an entry (uint8;
    0 fills gaps of more than 16), and the gaps, two a byte, the low half first.
    """
    model = SqueezeNet()
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    left = io.BytesIO(content)

    def take(dtype: str, count: int) -> NDArray[Any]:
        size = np.dtype(dtype).itemsize * count
        if len(piece := left.read(size)) < size:
            raise RequestError(
                f"{told}: ends too early for SqueezeNet v1.0 in 8 bits; {len(content):,} bytes"
            )
        return np.frombuffer(piece, dtype)

    state: dict[str, Tensor] = {}
    for (name, layer), entries in zip(layers.items(), take("<u4", len(layers)).tolist(), strict=True):
        size = layer.weight.numel()
        if entries > size:
            raise RequestError(
                f"{told}: {name} has {entries} entries for {size} weights; not SqueezeNet v1.0"
            )
        codebook, bias = take("<f4", 256), take("<f4", layer.out_channels)
        codes, packed = take("u1", entries), take("u1", (entries + 1) // 2)
        gaps = np.stack([packed & 15, packed >> 4], axis=1).ravel()[:entries].astype(np.int64)
        positions = np.cumsum(gaps + 1) - 1
        if entries and positions[-1] >= size:
            raise RequestError(f"{told}: the gaps in {name} lead past its {size} weights")
        weight = np.zeros(size, np.float32)
        weight[positions] = np.where(codes == 0, np.float32(0), codebook[codes])
        state[f"{name}.weight"] = torch.from_numpy(weight).view(layer.weight.shape)
        state[f"{name}.bias"] = torch.from_numpy(bias.copy())
    if left.read(1):
        raise RequestError(f"{told}: goes on after SqueezeNet v1.0 in 8 bits")
    return state


class _ArraysOnly(pickle.Unpickler):
    """Of all that a pickle can name, numpy's arrays alone: nothing else is imported, nothing is called."""

    _ALLOWED: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"names {module}.{name}, which no array needs") from None


def _from_pickle(content: bytes, told: str) -> State:
    """Layer name -> [kernels [H, W, in, out], biases [out]], of v1.1."""
    try:
        layers = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a pickle may fail in any way
        raise RequestError(f"{told}: is not a pickle of arrays ({type(error).__name__}: {error})") from error
    model = SqueezeNet(version="1.1")
    modules = dict(model.named_modules())
    state: dict[str, Tensor] = {}
    for path, name in model.layer_names.items():
        module = modules.get(path)
        if not isinstance(module, nn.Conv2d):
            continue
        try:
            kernels, bias = (np.asarray(array, np.float32) for array in layers[name])
            weight = torch.from_numpy(kernels.transpose(3, 2, 0, 1).copy()).reshape(module.weight.shape)
            state[f"{path}.weight"] = weight
            state[f"{path}.bias"] = torch.from_numpy(bias.copy()).reshape(module.out_channels)
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise RequestError(f"{told}: has no kernels and biases for {name} of v1.1") from error
    return state


def _told_by_tensors(state: State, model: str | None, told: str) -> ModelInfo:
    last = [tensor for tensor in state.values() if tensor.ndim == 1]
    classes = len(last[-1]) if last else 0
    for name in MODELS if model is None else (model,):
        try:
            built = build_model(ModelOptions(model=name), classes)
        except RequestError:
            if model is None:
                continue
            raise
        if {key: value.shape for key, value in built.state_dict().items()} == {
            key: value.shape for key, value in state.items()
        }:
            size = default_image_size(name)
            return ModelInfo(name=name, num_classes=classes, preprocessing=Preprocessing(crop=size))
    raise RequestError(
        f"{told}: does not hold the tensors of {model or 'a model of the registry; --model names another'}"
    )
