"""The registry builds models by name, anyone's own too, and refuses what cannot work in one clear line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from distsqz.errors import RequestError
from distsqz.models.registry import (
    MODELS,
    ModelOptions,
    build_model,
    check_model,
    default_image_size,
    image_size_of,
    own_classes,
    smallest_image_size,
)

OWN = """
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.body = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, num_classes))

    def forward(self, x):
        return self.body(x)


def ten_classes():
    return Net(10)


def any_keywords(**kwargs):
    return Net(**kwargs)


def no_parameters(num_classes):
    return nn.Identity()


def frozen(num_classes):
    return Net(num_classes).requires_grad_(False)


def not_a_model():
    return {"weights": 3}


def fails():
    raise ValueError("no such width\\nsecond line")


def wants_vectors(num_classes):
    return nn.Linear(7, num_classes)


class Pair(Net):
    def forward(self, x):
        return self.body(x), x


limit = 3
instance = Net()
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that only the current directory holds."""
    name = "own_model_for_the_registry"
    (tmp_path / f"{name}.py").write_text(OWN)
    (tmp_path / "own_model_that_is_broken.py").write_text("def half(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def refusal(options: ModelOptions, num_classes: int = 10) -> str:
    with pytest.raises(RequestError) as caught:
        build_model(options, num_classes)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", MODELS)
def test_every_model_maps_images_to_one_logit_a_class(name: str) -> None:
    with torch.device("meta"):
        model = build_model(ModelOptions(model=name), num_classes=7)
    size = default_image_size(name)
    assert model(torch.zeros(2, 3, size, size, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("name", MODELS)
def test_smallest_image_size_is_taken_and_one_less_is_too_small(name: str) -> None:
    smallest = smallest_image_size(name)
    with torch.device("meta"):
        model = build_model(ModelOptions(model=name, image_size=smallest), num_classes=5)
    with pytest.raises(RequestError):
        check_model(model, smallest - 1, 5)
    assert refusal(ModelOptions(model=name, image_size=smallest - 1)) == (
        f"image_size {smallest - 1}: too small for {name}, give at least {smallest}"
    )


def test_images_are_227_wide_for_bvlc_alexnet_and_224_for_all_else() -> None:
    sizes = {name: default_image_size(name) for name in (*MODELS, "my:net")}
    assert sizes.pop("alexnet_bvlc") == 227
    assert set(sizes.values()) == {224}
    assert image_size_of(ModelOptions(model="alexnet_bvlc")) == 227
    assert image_size_of(ModelOptions(model="alexnet_bvlc", image_size=64)) == 64


def test_building_is_reproducible_and_leaves_the_model_ready_to_train() -> None:
    first, second = (
        (torch.manual_seed(3), build_model(ModelOptions(image_size=32), num_classes=5))[1] for _ in range(2)
    )
    assert first.training
    for left, right in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("factory", ["Net", "any_keywords"])
def test_ones_own_model_is_found_in_the_current_directory_and_told_the_classes(
    own: str, factory: str
) -> None:
    model = build_model(ModelOptions(model=f"{own}:{factory}", image_size=8), num_classes=4)
    assert model(torch.zeros(3, 3, 8, 8)).shape == (3, 4)
    assert model.training


def test_ones_own_factory_need_not_take_num_classes(own: str) -> None:
    model = build_model(ModelOptions(model=f"{own}:ten_classes", image_size=8), num_classes=10)
    assert isinstance(model, nn.Module)


def test_unknown_name_is_refused_with_the_known_ones() -> None:
    message = refusal(ModelOptions(model="resnet50"))
    assert message.startswith("model resnet50: unknown")
    assert all(name in message for name in MODELS)
    assert "package.module:factory" in message


@pytest.mark.parametrize(
    ("factory", "complaint"),
    [
        ("missing", "has no 'missing'"),
        ("limit", "'limit' is not callable"),
        ("instance", "'instance' is a Net that is already built; every worker builds its own"),
        ("not_a_model", "returned dict, must return a torch.nn.Module"),
        ("no_parameters", "has no parameters to train"),
        ("frozen", "has no parameters to train"),
        ("fails", "the factory failed (ValueError: no such width second line)"),
        ("wants_vectors", "fails on an image of shape [1, 3, 8, 8]"),
        ("ten_classes", "returns shape [1, 10] for one image, must return logits [1, 4]"),
        ("Pair", "returns tuple, must return a tensor of logits"),
    ],
)
def test_ones_own_model_that_cannot_work_is_refused(own: str, factory: str, complaint: str) -> None:
    message = refusal(ModelOptions(model=f"{own}:{factory}", image_size=8), num_classes=4)
    assert message.startswith(f"model {own}:{factory}: ")
    assert complaint in message


@pytest.mark.parametrize(
    "name", ["no_such_package_at_all:net", "own_model_that_is_broken:half", ":net", ".relative:net"]
)
def test_module_that_cannot_be_imported_is_refused(own: str, name: str) -> None:  # noqa: ARG001
    assert refusal(ModelOptions(model=name)).startswith(f"model {name}: cannot import ")


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("nets.py", "give the module and the factory in it, nets:FACTORY"),
        ("./nets.py:Net", "nets:Net"),
        ("nets.py:Net", "nets:Net"),
        ("mypkg/nets:Net", "mypkg.nets:Net"),
        ("mypkg/nets.py", "mypkg.nets:FACTORY"),
        ("/home/me/nets.py:Net", "nets:Net, with /home/me in PYTHONPATH"),
        ("../nets.py:Net", "nets:Net, with .. in PYTHONPATH"),
    ],
)
def test_a_path_in_place_of_a_module_is_refused_with_what_to_give(path: str, advice: str) -> None:
    message = refusal(ModelOptions(model=path))
    assert message.startswith(f"model {path}: names a file; ")
    assert message.endswith(advice)


def test_ones_own_model_keeps_its_number_of_classes_unless_it_is_asked_to_change(own: str) -> None:
    options = ModelOptions(model=f"{own}:Net", image_size=8)
    assert build_model(options)(torch.zeros(1, 3, 8, 8)).shape == (1, 10)
    assert build_model(options, 4)(torch.zeros(1, 3, 8, 8)).shape == (1, 4)
    assert build_model(ModelOptions(image_size=32))(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)


@pytest.mark.parametrize(
    ("factory", "classes"), [("Net", 10), ("ten_classes", 10), ("any_keywords", 10), ("wants_vectors", None)]
)
def test_a_factory_tells_how_many_classes_its_model_has_by_itself(
    own: str, factory: str, classes: int | None
) -> None:
    assert own_classes(ModelOptions(model=f"{own}:{factory}", image_size=8)) == classes
    assert own_classes(ModelOptions(model="squeezenet")) is None


def test_torch_identity_is_refused_for_having_no_parameters() -> None:
    assert refusal(ModelOptions(model="torch.nn:Identity")) == (
        "model torch.nn:Identity: has no parameters to train; give a model that has some"
    )


@pytest.mark.parametrize("ratio", [0.0, -0.5, 0.001, 1.5, float("nan")])
def test_squeeze_ratio_out_of_range_is_refused(ratio: float) -> None:
    assert refusal(ModelOptions(squeeze_ratio=ratio)).startswith(
        f"squeeze_ratio {ratio}: must lie between 0.0078125 and 1"
    )


@pytest.mark.parametrize("pct", [0.0, -0.5, 1.0, 50.0, float("nan")])
def test_pct_3x3_out_of_range_is_refused(pct: float) -> None:
    assert refusal(ModelOptions(pct_3x3=pct)).startswith(
        f"pct_3x3 {pct}: must lie between 0.0078125 and 0.992188"
    )


def test_extreme_ratios_leave_every_convolution_a_filter() -> None:
    with torch.device("meta"):
        for pct in (1 / 128, 127 / 128):
            model = build_model(ModelOptions(squeeze_ratio=1 / 128, pct_3x3=pct), num_classes=3)
            assert all(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["alexnet", "alexnet_bvlc", "torch.nn:Identity"])
def test_ratios_are_refused_for_models_that_have_none(name: str) -> None:
    message = refusal(ModelOptions(model=name, squeeze_ratio=0.5))
    assert message.startswith(f"squeeze_ratio 0.5: {name} has no such ratio")
    assert refusal(ModelOptions(model=name, pct_3x3=0.5)).startswith("pct_3x3 0.5: ")


def test_no_classes_and_no_image_are_refused(own: str) -> None:
    assert refusal(ModelOptions(), num_classes=0) == "num_classes 0: must be at least 1"
    assert refusal(ModelOptions(model=f"{own}:Net", image_size=0)).startswith("image_size 0: too small")
