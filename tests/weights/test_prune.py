import pytest
import torch
from torch import nn

from distsqz.errors import RunError
from distsqz.models.squeezenet import SqueezeNet
from distsqz.weights.fine_tune import FineTuning, Free, fine_tune
from distsqz.weights.prune import Masked, dropout_for, gradual_density, magnitude_masks, prunable
from tests.weights.small_problem import small_model, small_split


def _density(masks: list[torch.Tensor]) -> float:
    return sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)


@pytest.mark.parametrize("density", [0.01, 0.2, 0.5, 1.0])
def test_masks_keep_exactly_the_asked_number_of_weights(density):
    model = small_model()
    masks = magnitude_masks(model, {"": density})
    total = sum(weight.numel() for weight in prunable(model).values())
    assert sum(int(mask.sum()) for mask in masks.values()) == round(density * total)


def test_weights_of_equal_magnitude_are_pruned_to_the_asked_number_too():
    model = nn.Linear(10, 10)
    nn.init.constant_(model.weight, 0.5)
    assert magnitude_masks(model, {"": 0.3})["weight"].sum() == 30


def test_each_group_of_layers_has_its_own_density():
    model = SqueezeNet(num_classes=10)
    masks = magnitude_masks(model, {"": 0.3, "features.0": 1.0, "features.3": 0.5, "features.3.squeeze": 0.1})
    assert masks["features.0.weight"].all()
    assert _density([masks["features.3.squeeze.weight"]]) == pytest.approx(0.1, abs=1e-3)
    expands = [masks[f"features.3.{part}.weight"] for part in ("expand1x1", "expand3x3")]
    assert _density(expands) == pytest.approx(0.5, abs=1e-3)
    others = [mask for name, mask in masks.items() if not name.startswith(("features.0.", "features.3."))]
    assert _density(others) == pytest.approx(0.3, abs=1e-4)


def test_the_weights_that_stay_are_the_largest_of_all_layers():
    model = small_model()
    masks = magnitude_masks(model, {"": 0.4})
    magnitudes = {name: weight.abs() for name, weight in prunable(model).items()}
    stay = torch.cat([magnitudes[name][mask] for name, mask in masks.items()])
    go = torch.cat([magnitudes[name][~mask] for name, mask in masks.items()])
    assert stay.min() >= go.max()


def test_pruned_weights_stay_zero_through_fine_tuning_and_the_others_move():
    model = small_model()
    masks = magnitude_masks(model, {"": 0.3})
    constraint = Masked(model, masks)
    before = {name: weight.detach().clone() for name, weight in prunable(model).items()}
    fine_tune(
        model, small_split(), FineTuning(steps=12, lr=0.05, weight_decay=0.01, batch_size=16), constraint
    )
    for name, weight in prunable(model).items():
        assert not weight[~masks[name]].any()
        assert not torch.equal(weight, before[name])


def test_gradual_density_falls_from_round_to_round_and_ends_at_the_asked_one():
    densities = [gradual_density(0.1, round_, 4) for round_ in (1, 2, 3, 4)]
    assert densities == sorted(densities, reverse=True)
    assert densities[-1] == 0.1
    assert densities[0] < 0.55


def test_dropout_is_weaker_by_the_root_of_the_density_while_pruned_weights_are_trained():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 2))
    with dropout_for(model, magnitude_masks(model, {"1": 0.25, "4": 1.0})):
        assert [model[0].p, model[3].p] == [0.25, 0.4]
    assert [model[0].p, model[3].p] == [0.5, 0.4]


def test_training_lowers_the_loss():
    model = small_model()
    settings = FineTuning(steps=10, lr=0.1, batch_size=16)
    first = fine_tune(model, small_split(), settings, Free(model))
    assert fine_tune(model, small_split(), settings, Free(model)) < 0.8 * first


def test_training_twice_gives_the_same_weights():
    def trained() -> torch.Tensor:
        model = small_model()
        fine_tune(model, small_split(), FineTuning(steps=5, lr=0.1, batch_size=16, seed=2), Free(model))
        return model[4].weight

    assert torch.equal(trained(), trained())


def test_a_loss_that_is_no_number_ends_in_one_line():
    model = small_model()
    with pytest.raises(RunError, match=r"step \d+: the loss is .*lower learning rate"):
        fine_tune(model, small_split(), FineTuning(steps=50, lr=1e30, batch_size=16), Free(model))
