"""Published weights load unchanged; what does not fit is refused with the first thing that differs.

The names and shapes below are those of torchvision's published files, written down by hand.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from distsqz.errors import RequestError
from distsqz.models.registry import ModelOptions, build_model
from distsqz.models.weights import load_weights

Shapes = dict[str, tuple[int, ...]]

# Index in `features`: input channels, squeeze filters, filters of each expand.
SQUEEZENET1_0_FIRES = {
    3: (96, 16, 64),
    4: (128, 16, 64),
    5: (128, 32, 128),
    7: (256, 32, 128),
    8: (256, 48, 192),
    9: (384, 48, 192),
    10: (384, 64, 256),
    12: (512, 64, 256),
}
SQUEEZENET1_1_FIRES = {
    3: (64, 16, 64),
    4: (128, 16, 64),
    6: (128, 32, 128),
    7: (256, 32, 128),
    9: (256, 48, 192),
    10: (384, 48, 192),
    11: (384, 64, 256),
    12: (512, 64, 256),
}


def squeezenet_shapes(conv1: tuple[int, ...], fires: dict[int, tuple[int, int, int]]) -> Shapes:
    shapes: Shapes = {"features.0.weight": conv1, "features.0.bias": conv1[:1]}
    for index, (channels, squeeze, expand) in fires.items():
        shapes |= {
            f"features.{index}.squeeze.weight": (squeeze, channels, 1, 1),
            f"features.{index}.squeeze.bias": (squeeze,),
            f"features.{index}.expand1x1.weight": (expand, squeeze, 1, 1),
            f"features.{index}.expand1x1.bias": (expand,),
            f"features.{index}.expand3x3.weight": (expand, squeeze, 3, 3),
            f"features.{index}.expand3x3.bias": (expand,),
        }
    return shapes | {"classifier.1.weight": (1000, 512, 1, 1), "classifier.1.bias": (1000,)}


PUBLISHED: dict[str, Shapes] = {
    "squeezenet": squeezenet_shapes((96, 3, 7, 7), SQUEEZENET1_0_FIRES),
    "squeezenet1_1": squeezenet_shapes((64, 3, 3, 3), SQUEEZENET1_1_FIRES),
    "alexnet": {
        "features.0.weight": (64, 3, 11, 11),
        "features.0.bias": (64,),
        "features.3.weight": (192, 64, 5, 5),
        "features.3.bias": (192,),
        "features.6.weight": (384, 192, 3, 3),
        "features.6.bias": (384,),
        "features.8.weight": (256, 384, 3, 3),
        "features.8.bias": (256,),
        "features.10.weight": (256, 256, 3, 3),
        "features.10.bias": (256,),
        "classifier.1.weight": (4096, 9216),
        "classifier.1.bias": (4096,),
        "classifier.4.weight": (4096, 4096),
        "classifier.4.bias": (4096,),
        "classifier.6.weight": (1000, 4096),
        "classifier.6.bias": (1000,),
    },
}


def published(name: str) -> OrderedDict[str, Tensor]:
    """Every tensor full of its own number; on disk a single value each."""
    return OrderedDict(
        (key, torch.tensor(float(index)).expand(shape))
        for index, (key, shape) in enumerate(PUBLISHED[name].items())
    )


def save(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def squeezenet() -> nn.Module:
    return build_model(ModelOptions(model="squeezenet", image_size=32), num_classes=1000)


def refusal(model: nn.Module, path: Path) -> str:
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(RequestError) as caught:
        load_weights(model, path)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    message = str(caught.value)
    assert message.startswith(f"checkpoint {path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("zipped", [True, False], ids=["new format", "format before torch 1.6"])
def test_published_weights_load_unchanged(name: str, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "published.pth"
    torch.save(published(name), path, _use_new_zipfile_serialization=zipped)
    with torch.device("meta"):
        model = build_model(ModelOptions(model=name), num_classes=1000)
    model = model.to_empty(device="cpu")
    load_weights(model, path)
    for index, (key, tensor) in enumerate(model.state_dict().items()):
        assert list(PUBLISHED[name])[index] == key
        assert (tensor == index).all(), key


def test_a_checkpoint_gives_its_model(squeezenet: nn.Module, tmp_path: Path) -> None:
    load_weights(squeezenet, save({"model": published("squeezenet"), "step": 12}, tmp_path / "checkpoint.pt"))
    assert (squeezenet.get_parameter("classifier.1.bias") == 51).all()


def test_weights_of_another_model_are_refused_by_the_first_shape_that_differs(
    squeezenet: nn.Module, tmp_path: Path
) -> None:
    message = refusal(squeezenet, save(published("squeezenet1_1"), tmp_path / "other.pth"))
    assert (
        "'features.0.weight' has shape [64, 3, 3, 3], the model that `model` names has [96, 3, 7, 7]"
        in message
    )


def test_weights_that_lack_a_tensor_are_refused(squeezenet: nn.Module, tmp_path: Path) -> None:
    state = published("squeezenet")
    del state["features.7.squeeze.bias"]
    assert "has no 'features.7.squeeze.bias'" in refusal(squeezenet, save(state, tmp_path / "lacking.pth"))


def test_weights_with_a_tensor_too_many_are_refused(squeezenet: nn.Module, tmp_path: Path) -> None:
    state = published("squeezenet") | {"features.3.bypass.weight": torch.zeros(1)}
    assert "holds 'features.3.bypass.weight'" in refusal(squeezenet, save(state, tmp_path / "more.pth"))


@pytest.mark.parametrize("content", [[1, 2], {"model": "squeezenet"}, {"weights": published("alexnet")}, 3])
def test_a_file_without_a_state_dict_is_refused(
    content: object, squeezenet: nn.Module, tmp_path: Path
) -> None:
    assert "holds no state dict" in refusal(squeezenet, save(content, tmp_path / "no_state.pth"))


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n", b"PK\x03\x04 cut short", b"hello\n"])
def test_a_file_that_is_not_torchs_is_refused(content: bytes, squeezenet: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "picture.pth"
    path.write_bytes(content)
    assert "is not a file of weights" in refusal(squeezenet, path)


def test_a_file_that_would_run_code_is_refused(squeezenet: nn.Module, tmp_path: Path) -> None:
    assert "is not a file of weights" in refusal(squeezenet, save(nn.Linear(1, 1), tmp_path / "pickled.pth"))


def test_a_missing_file_and_a_directory_are_refused(squeezenet: nn.Module, tmp_path: Path) -> None:
    assert "cannot be read (No such file or directory)" in refusal(squeezenet, tmp_path / "none.pth")
    assert "cannot be read (Is a directory)" in refusal(squeezenet, tmp_path)


def small_model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))


def trained_model() -> tuple[nn.Module, Tensor]:
    """A model after a forward pass, and an input that shows which weights another has."""
    model, images = small_model(), torch.randn(2, 3, 8, 8)
    model(images)
    return model, images


def same_answers(left: nn.Module, right: nn.Module, images: Tensor) -> bool:
    return torch.equal(left.eval()(images), right.eval()(images))


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict"])
def test_a_state_dict_beside_other_things_is_found_under_its_usual_keys(key: str, tmp_path: Path) -> None:
    saved, images = trained_model()
    content = {"epoch": 3, key: saved.state_dict(), "optimizer": {"state": {}, "param_groups": []}}
    model, _ = trained_model()
    load_weights(model, save(content, tmp_path / "training.pth"))
    assert same_answers(model, saved, images)


def test_a_checkpoint_of_a_model_under_ddp_loads_into_the_plain_model(tmp_path: Path) -> None:
    saved, images = trained_model()
    under_ddp = {f"module.{key}": tensor for key, tensor in saved.state_dict().items()}
    model, _ = trained_model()
    load_weights(model, save({"state_dict": under_ddp}, tmp_path / "ddp.pth"))
    assert same_answers(model, saved, images)


def test_a_checkpoint_of_a_compiled_model_loads_into_the_plain_one_and_back(tmp_path: Path) -> None:
    saved, images = trained_model()
    compiled = torch.compile(saved)
    assert isinstance(compiled, nn.Module)
    assert all(key.startswith("_orig_mod.") for key in compiled.state_dict())
    model, _ = trained_model()
    load_weights(model, save(compiled.state_dict(), tmp_path / "compiled.pth"))
    assert same_answers(model, saved, images)
    other, _ = trained_model()
    load_weights(torch.compile(other), save(saved.state_dict(), tmp_path / "plain.pth"))
    assert same_answers(other, saved, images)


def test_a_model_with_one_compiled_part_loads_into_the_plain_one(tmp_path: Path) -> None:
    saved, images = trained_model()
    plain, _ = trained_model()
    assert isinstance(saved, nn.Sequential)
    saved[0] = torch.compile(saved[0])
    path = save({f"module.{key}": each for key, each in saved.state_dict().items()}, tmp_path / "part.pth")
    assert "module.0._orig_mod.weight" in torch.load(path)
    load_weights(plain, path)
    saved[0] = saved[0]._orig_mod
    assert same_answers(plain, saved, images)


def test_a_model_whose_own_names_begin_with_module_loads_its_own_checkpoint(tmp_path: Path) -> None:
    saved, images = trained_model()
    model, _ = trained_model()
    wrapped = nn.ModuleDict({"module": model})
    load_weights(wrapped, save(nn.ModuleDict({"module": saved}).state_dict(), tmp_path / "own.pth"))
    assert same_answers(model, saved, images)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(value: float, tmp_path: Path) -> None:
    saved, _ = trained_model()
    saved.get_parameter("0.weight").data[1, 0, 0, :2] = value
    path = save(saved.state_dict(), tmp_path / "diverged.pth")
    model, _ = trained_model()
    assert "0.weight holds 2 of 108 values that are NaN or infinite" in refusal(model, path)


def test_infinite_buffers_are_masks_and_nan_in_them_is_not(tmp_path: Path) -> None:
    model, _ = trained_model()
    model.register_buffer("mask", torch.tensor([0.0, -float("inf")]))
    load_weights(model, save(model.state_dict(), tmp_path / "mask.pth"))
    state = model.state_dict() | {"1.running_var": torch.full((4,), float("nan"))}
    assert "1.running_var holds 4 of 4" in refusal(model, save(state, tmp_path / "diverged.pth"))
