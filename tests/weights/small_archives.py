"""Small compressed models, and what damage may do to their archives."""

from __future__ import annotations

import numpy as np

from distsqz.models.preprocessing import CAFFE
from distsqz.weights.archive import decode
from distsqz.weights.errors import ArchiveError
from distsqz.weights.quantised import CompressedModel, ModelInfo, Quantised

INFO = ModelInfo(name="squeezenet", num_classes=10, squeeze_ratio=0.25, preprocessing=CAFFE)


def sparse(shape: tuple[int, ...], density: float, seed: int = 0, scale: float = 4) -> Quantised:
    """Laplacian symbols, most of them 0."""
    generator = np.random.default_rng(seed)
    values = np.round(generator.laplace(0, scale, shape)) * (generator.random(shape) < density)
    return Quantised(np.asarray(values, np.int32), 0.01)


def small_model() -> CompressedModel:
    """A convolution with a codebook, its biases, a matrix, a scalar and an empty tensor."""
    codebook = np.linspace(-1, 1, 101).astype(np.float32)
    codebook[50] = 0
    symbols = sparse((6, 4, 3, 3), 0.3).symbols.clip(-50, 50)
    return CompressedModel(
        INFO,
        {
            "conv.weight": Quantised(symbols, 1.0, codebook, 50),
            "conv.bias": sparse((6,), 1, 1, 1000),
            "fc.weight": sparse((10, 30), 0.2, 2),
            "scale": Quantised(np.array(7, np.int32), 0.5),
            "empty": Quantised(np.zeros((0, 3), np.int32)),
        },
    )


def damaged(content: bytes, generator: np.random.Generator) -> bytes:
    """With one to four bytes changed, a piece lost, doubled, or appended."""
    changed = bytearray(content)
    at = int(generator.integers(len(changed)))
    kind = generator.integers(4)
    if kind == 0:
        del changed[at : at + int(generator.integers(1, 9))]
    elif kind == 1:
        changed[at:at] = changed[at : at + int(generator.integers(1, 9))]
    else:
        for _ in range(generator.integers(1, 5)):
            changed[int(generator.integers(len(changed)))] ^= int(generator.integers(1, 256))
    return bytes(changed)


def refused(content: bytes, verify: bool) -> bool:
    """Whether an ArchiveError of one line says that this is no archive; no other exception is let by."""
    try:
        model = decode(content, verify)
    except ArchiveError as error:
        assert "\n" not in str(error)
        return True
    for tensor in model.tensors.values():
        assert tensor.values.shape == tensor.symbols.shape
        assert tensor.values.dtype == np.float32
    return False
