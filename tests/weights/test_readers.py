"""Real weights' files, made by hand in their layouts; what is none of them is refused in a line."""

from __future__ import annotations

import math
import pickle
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from distsqz.errors import RequestError
from distsqz.models.preprocessing import Preprocessing
from distsqz.models.squeezenet import Metaparameters, SqueezeNet
from distsqz.weights import load
from distsqz.weights.archive import write_archive
from distsqz.weights.quantised import CompressedModel, ModelInfo, Quantised
from distsqz.weights.readers import load_model, read_model, read_state
from tests.weights.small_archives import small_model

AS_IN_CAFFE = Preprocessing(
    channels="BGR", resize_to="square", resize=256, filter="bilinear", crop=227, scale=1.0,
    mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0),
)  # fmt: skip
FILTERS = [layer.out_channels for layer in SqueezeNet().modules() if isinstance(layer, nn.Conv2d)]


def net(counts: list[int], codes: list[int], gaps: list[int], after: bytes = b"") -> bytes:
    """The 8-bit layout: every layer has the first so many of `codes` and of `gaps`."""
    codebook = np.arange(256, dtype="<f4") + 0.5
    content = np.array(counts, "<u4").tobytes()
    for index, (count, filters) in enumerate(zip(counts, FILTERS, strict=True)):
        halves = [*gaps[:count], 0]
        packed = [halves[at] | halves[at + 1] << 4 for at in range(0, count, 2)]
        content += codebook.tobytes() + np.full(filters, index, "<f4").tobytes()
        content += bytes(codes[:count]) + bytes(packed)
    return content + after


def refusal(path: Path) -> str:
    with pytest.raises(RequestError) as caught:
        read_model(path)
    assert str(caught.value).startswith(f"checkpoint {path}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_8_bit_file_gives_weights_where_its_gaps_lead(tmp_path: Path) -> None:
    path = tmp_path / "m.net"
    path.write_bytes(net([3] * 26, [9, 0, 200], [2, 15, 4]))
    info, state = read_model(path)
    assert (info.name, info.preprocessing, info.classifier_padding) == ("squeezenet", AS_IN_CAFFE, 1)
    assert len(state) == 52
    weight = state["features.0.weight"].flatten()
    # The second entry fills a gap of more than 16: it moves on and stands for no weight.
    assert weight.nonzero().flatten().tolist() == [2, 2 + 16 + 5]
    assert weight[[2, 23]].tolist() == [9.5, 200.5]
    assert (state["classifier.1.bias"] == 25).all()
    SqueezeNet(classifier_padding=1).load_state_dict(dict(state))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "ends too early"),
        (net([3] * 26, [9, 0, 200], [2, 15, 4])[:-1], "ends too early"),
        (net([3] * 26, [9, 0, 200], [2, 15, 4], b"x"), "goes on"),
        (np.full(26, 10**8, "<u4").tobytes(), "not SqueezeNet v1.0"),
        (net([130] * 26, [1] * 130, [15] * 130), "lead past"),
    ],
    ids=["empty", "cut off", "too long", "too many entries", "gaps too long"],
)
def test_what_is_no_8_bit_file_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "m.net"
    path.write_bytes(content)
    assert said in refusal(path)


def arrays_of_v1_1() -> dict[str, list[NDArray[np.float32]]]:
    model = SqueezeNet(version="1.1")
    layers = {}
    for path, name in model.layer_names.items():
        module = dict(model.named_modules()).get(path)
        if isinstance(module, nn.Conv2d):
            assert module.bias is not None
            kernels = module.weight.detach().permute(2, 3, 1, 0).numpy().copy()
            layers[name] = [kernels, module.bias.detach().numpy().copy()]
    return layers


def old_pickle(content: object) -> bytes:
    return pickle.dumps(content, protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def test_the_pickle_of_v1_1_gives_its_kernels_turned_as_torch_has_them(tmp_path: Path) -> None:
    layers, path = arrays_of_v1_1(), tmp_path / "m.pkl"
    path.write_bytes(old_pickle(layers))
    info, state = read_model(path)
    assert (info.name, info.preprocessing) == ("squeezenet1_1", AS_IN_CAFFE)
    first = state["features.0.weight"].numpy()
    np.testing.assert_array_equal(first[5, 2, 0, 1], layers["conv1"][0][0, 1, 2, 5])
    load_model(path)


def test_a_pickle_that_names_a_command_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    path, trace = tmp_path / "m.pkl", tmp_path / "ran"
    path.write_bytes(b"cos\nsystem\n(S'touch " + str(trace).encode() + b"'\ntR.")
    assert "names os.system" in refusal(path)
    assert not trace.exists()


class Pointers:
    """Pickles as a call of numpy.ndarray for objects at addresses of one's choosing."""

    def __reduce__(self) -> tuple[Any, ...]:
        return np.ndarray, ((4,), np.dtype("O"), b"A" * 32)


class Bytes:
    """Pickles as an array whose content is a number, which `bytes` would take for a length."""

    def __reduce__(self) -> tuple[Any, ...]:
        made, arguments, state = np.zeros(1, np.float32).__reduce__()
        return made, arguments, (*state[:-1], 1 << 60)


@pytest.mark.parametrize("bad", [Pointers(), Bytes(), np.array([{}]), np.ones(3, np.int32), np.ndarray, 7])
def test_a_pickle_of_anything_but_plain_numbers_is_refused(bad: object, tmp_path: Path) -> None:
    layers: dict[str, Any] = {**arrays_of_v1_1(), "conv1": [bad, bad]}
    path = tmp_path / "m.pkl"
    path.write_bytes(old_pickle(layers))
    assert refusal(path)


def test_a_pickle_that_lacks_a_layer_is_refused(tmp_path: Path) -> None:
    layers, path = arrays_of_v1_1(), tmp_path / "m.pkl"
    del layers["conv10"]
    path.write_bytes(old_pickle(layers))
    assert "conv10" in refusal(path)


def test_damaged_archives_and_safetensors_are_refused(tmp_path: Path) -> None:
    for name in ("m.sqz", "m.safetensors"):
        path = tmp_path / name
        path.write_bytes(b"nonsense")
        assert "is not a" in refusal(path)


def test_an_archive_and_safetensors_give_the_same_state(tmp_path: Path) -> None:
    write_archive(tmp_path / "m.sqz", small_model())
    state = load(tmp_path / "m.sqz")
    save_file(state, tmp_path / "m.safetensors")
    for name in ("m.sqz", "m.safetensors"):
        found, _ = read_state(tmp_path / name)
        assert all(torch.equal(found[key], state[key]) for key in state)


def test_an_archive_of_another_model_does_not_fit(tmp_path: Path) -> None:
    model = CompressedModel(
        ModelInfo(name="squeezenet", num_classes=10), {"w": Quantised(np.ones(3, np.int32))}
    )
    write_archive(tmp_path / "m.sqz", model)
    with pytest.raises(RequestError, match="does not fit squeezenet"):
        load_model(tmp_path / "m.sqz")
    with pytest.raises(RequestError, match=r"model alexnet: .* holds squeezenet"):
        read_model(tmp_path / "m.sqz", "alexnet")


@pytest.mark.parametrize(("ratio", "share"), [(0.125, 0.5), (0.3, 0.4), (0.123, 0.75), (1 / 3, 0.5)])
def test_the_shape_of_a_squeezenet_is_told_from_its_tensors(
    ratio: float, share: float, tmp_path: Path
) -> None:
    widths = Metaparameters(squeeze_ratio=ratio, pct_3x3=share)
    built = SqueezeNet(num_classes=7, metaparameters=widths)
    torch.save(built.state_dict(), tmp_path / "m.pth")
    info, model = load_model(tmp_path / "m.pth")
    assert (info.name, info.num_classes) == ("squeezenet", 7)
    found, wanted = model.state_dict(), built.state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.timeout(60)
def test_a_registry_model_saved_under_ddp_is_told_from_its_tensors(tmp_path: Path) -> None:
    saved = SqueezeNet(num_classes=5, version="1.1").state_dict()
    path = tmp_path / "ddp.pth"
    torch.save({"state_dict": {f"module.{key}": each for key, each in saved.items()}, "epoch": 1}, path)
    info, state = read_model(path)
    assert (info.name, info.num_classes) == ("squeezenet1_1", 5)
    assert state.keys() == saved.keys()


def test_tensors_of_no_model_are_refused_before_a_model_is_built_for_them(tmp_path: Path) -> None:
    torch.save({"b": torch.zeros(3_000_000)}, tmp_path / "m.pth")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "does not hold the tensors of" in refusal(tmp_path / "m.pth")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB
    info = ModelInfo(name="alexnet", num_classes=1 << 20)
    write_archive(tmp_path / "m.sqz", CompressedModel(info, {"w": Quantised(np.ones(3, np.int32))}))
    with pytest.raises(RequestError, match="does not fit alexnet"):
        load_model(tmp_path / "m.sqz")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = SqueezeNet().state_dict()
    state["features.0.bias"][3] = torch.nan
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(RequestError, match=r"features\.0\.bias has values that are not finite"):
        load_model(tmp_path / "m.pth")


@pytest.mark.parametrize(
    "wrong",
    [{"resize": 223}, {"resize": 60_000}, {"scale": 0.0}, {"std": (1.0, 0.0, 1.0)}, {"scale": math.inf}],
)
def test_an_archive_by_which_no_image_can_be_prepared_is_refused(
    wrong: dict[str, Any], tmp_path: Path
) -> None:
    info = ModelInfo(name="squeezenet", num_classes=3, preprocessing=Preprocessing(**wrong))
    write_archive(tmp_path / "m.sqz", CompressedModel(info, {"w": Quantised(np.ones(3, np.int32))}))
    with pytest.raises(RequestError, match="no image can be prepared"):
        load_model(tmp_path / "m.sqz")


def test_an_archive_does_not_choose_which_code_runs(tmp_path: Path) -> None:
    info = ModelInfo(name="os:getcwd", num_classes=10)
    write_archive(tmp_path / "m.sqz", CompressedModel(info, {"w": Quantised(np.ones(3, np.int32))}))
    with pytest.raises(RequestError, match="is of a model of one's own"):
        load_model(tmp_path / "m.sqz")


def test_an_archive_that_claims_absurd_sizes_is_refused_before_a_model_is_built(tmp_path: Path) -> None:
    info = ModelInfo(name="alexnet", num_classes=2**32 - 1)
    write_archive(tmp_path / "m.sqz", CompressedModel(info, {"w": Quantised(np.ones(3, np.int32))}))
    with pytest.raises(RequestError, match="says 4294967295 classes"):
        load_model(tmp_path / "m.sqz")
