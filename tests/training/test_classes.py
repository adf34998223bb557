"""How many classes a model is built for: what was asked, else the data's, else its own number."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import pytest

from distsqz.errors import RequestError
from distsqz.training.options import TrainingOptions
from distsqz.training.plan import plan_session
from distsqz.training.session import SessionPlan


def plan(*models: str, **changes: Any) -> tuple[SessionPlan, list[dict[str, Any]]]:
    options = TrainingOptions(
        **({"image_size": 32, "batch_size": 2, "steps": 1, "warmup_steps": 0} | changes)
    )
    return plan_session(
        [name if ":" not in name else f"class_models:{name[1:]}" for name in models], 2, options
    )


def refusal(*models: str, **changes: Any) -> str:
    with pytest.raises(RequestError) as caught:
        plan(*models, **changes)
    return str(caught.value)


@pytest.fixture
def three_classes(tmp_path: Path) -> str:
    """Fashion-MNIST's files, with four images of three classes: 0, 1 and 9."""
    for name in ("train", "t10k"):
        images = struct.pack(">4B3I", 0, 0, 8, 3, 4, 28, 28) + bytes(4 * 28 * 28)
        labels = struct.pack(">4BI", 0, 0, 8, 1, 4) + bytes([0, 1, 9, 1])
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return f"fashion-mnist:{tmp_path}"


@pytest.mark.parametrize(
    "name", [":WithDefault", ":without_num_classes", ":any_keywords", ":default_of_none"]
)
def test_synthetic_images_have_as_many_classes_as_an_own_model_by_itself(name: str) -> None:
    planned, (entry,) = plan(name)
    (cell,) = planned.cells
    assert (entry["num_classes"], cell.num_classes) == (7, 7)
    assert entry["params"] == sum(each.numel() for each in cell.build().parameters()) == 7 * (3 + 1)
    assert cell.open_data().num_classes == 7
    assert not planned.notices


def test_a_model_that_requires_a_number_is_given_a_thousand() -> None:
    assert plan(":requires_num_classes")[1][0]["num_classes"] == 1000


def test_models_of_the_registry_have_a_thousand_classes_by_themselves_and_an_own_model_s_beside_it() -> None:
    assert plan("squeezenet")[1][0]["num_classes"] == 1000
    planned, entries = plan("squeezenet", ":WithDefault")
    assert [entry["num_classes"] for entry in entries] == [7, 7]
    assert list(planned.notices) == ["squeezenet: built for 7 classes, as class_models:WithDefault has"]


def test_a_number_that_is_asked_for_is_taken_without_a_word() -> None:
    planned, (entry,) = plan(":WithDefault", num_classes=12)
    assert entry["num_classes"] == 12
    assert not planned.notices


def test_own_models_of_different_numbers_are_not_compared_on_data_that_could_be_of_either() -> None:
    message = refusal(":WithDefault", ":WithFive")
    assert "class_models:WithDefault has 7, class_models:WithFive has 5 classes" in message
    assert "`num_classes`" in message
    plan(":WithDefault", ":WithFive", num_classes=6)


def test_a_model_that_is_built_for_the_data_s_classes_instead_of_its_own_is_told(three_classes: str) -> None:
    planned, (entry,) = plan(":WithDefault", data=three_classes)
    assert entry["num_classes"] == 10
    (notice,) = planned.notices
    assert notice.startswith("class_models:WithDefault: built with num_classes=10, as many classes as ")
    assert notice.endswith("; its own default is 7")


def test_a_model_that_cannot_be_built_for_the_data_s_classes_is_refused(three_classes: str) -> None:
    message = refusal(":without_num_classes", data=three_classes)
    assert message.startswith("model class_models:without_num_classes: returns 7 logits for an image, ")
    assert "must return 10 for the 10 classes of " in message
    assert "give `num_classes" not in message


def test_a_model_with_more_outputs_than_the_data_has_classes_is_trained_when_asked_for(
    three_classes: str,
) -> None:
    assert "; give `num_classes=14` to train it as it is" in refusal(":fourteen", data=three_classes)
    assert plan(":fourteen", data=three_classes, num_classes=14)[1][0]["num_classes"] == 14
