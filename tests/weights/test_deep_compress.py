import copy

import pytest
import torch
from torch import nn

from distsqz.errors import RequestError
from distsqz.weights.deep_compress import DeepCompressOptions, deep_compress, quantise_shared
from distsqz.weights.prune import prunable
from tests.weights.small_problem import INFO, small_model, small_split

OPTIONS = DeepCompressOptions(
    density=0.5,
    layer_density={"4": 0.25},
    bits=3,
    layer_bits={"6": 4},
    rounds=2,
    fine_tune_steps=6,
    share_steps=3,
    batch_size=16,
)


def test_the_result_holds_exactly_the_weights_that_the_model_ends_with():
    model = small_model()
    compressed = deep_compress(model, small_split(), INFO, OPTIONS)
    state = model.state_dict()
    assert list(compressed.tensors) == list(state)
    for name, values in compressed.state().items():
        assert torch.equal(torch.from_numpy(values), state[name].contiguous())


def test_the_result_has_the_asked_densities_and_numbers_of_values():
    compressed = deep_compress(small_model(), small_split(), INFO, OPTIONS)
    kept = {name: int((tensor.symbols != 0).sum()) for name, tensor in compressed.tensors.items()}
    sizes = {name: tensor.symbols.size for name, tensor in compressed.tensors.items()}
    assert kept["4.weight"] == sizes["4.weight"] * 0.25
    assert kept["0.weight"] + kept["6.weight"] == round((sizes["0.weight"] + sizes["6.weight"]) * 0.5)
    assert len(compressed.tensors["4.weight"].codebook) <= 2**3
    assert len(compressed.tensors["6.weight"].codebook) <= 2**4


def test_compressing_twice_gives_the_same_weights():
    first, second = (deep_compress(small_model(), small_split(), INFO, OPTIONS).state() for _ in range(2))
    assert all((first[name] == second[name]).all() for name in first)


def test_layers_and_buffers_that_are_neither_weights_nor_biases_are_kept_exactly():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model(torch.rand(2, 3, 5, 5))
    tensors = quantise_shared(copy.deepcopy(model))
    for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked", "1.weight"):
        assert torch.equal(torch.from_numpy(tensors[name].values), model.state_dict()[name].float())


def test_training_pays_for_what_pruning_costs():
    def accuracy(steps: int) -> float:
        options = DeepCompressOptions(
            density=0.4, bits=4, fine_tune_steps=steps, share_steps=steps // 3, batch_size=16, lr=0.1
        )
        model = small_model()
        deep_compress(model, small_split(), INFO, options)
        images, labels = small_split().batch(torch.arange(64).numpy(), torch.zeros(64).bool().numpy())
        return float((model(images).argmax(1) == labels).float().mean())

    assert accuracy(60) > accuracy(0) + 0.2


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"density": 0.0}, "density 0.0: must be above 0 and at most 1"),
        ({"layer_density": {"4": 1.5}}, "layer_density 4 1.5: must be above 0 and at most 1"),
        ({"bits": 0}, "bits 0: must be from 1 to 12"),
        ({"layer_bits": {"4": 13}}, "layer_bits 4 13: must be from 1 to 12"),
        ({"rounds": 0}, "rounds 0: must be at least 1"),
        ({"fine_tune_steps": -1}, "fine_tune_steps -1: must be at least 0"),
        ({"batch_size": 0}, "batch_size 0: must be at least 1"),
        ({"lr": -1.0}, "lr -1.0: must be above 0 and finite"),
    ],
)
def test_an_option_out_of_range_is_refused_in_one_line(wrong, told):
    with pytest.raises(RequestError) as refused:
        DeepCompressOptions(**wrong)
    assert str(refused.value) == told


@pytest.mark.parametrize("option", ["layer_density", "layer_bits"])
def test_a_name_that_is_no_layers_is_refused_before_anything_is_trained(option):
    model = small_model()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RequestError, match=r"layer_\w+ fc: is no layer .*there are 0, 4, 6$"):
        deep_compress(model, small_split(), INFO, DeepCompressOptions(**{option: {"fc": 1}}))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert set(prunable(model)) == {"0.weight", "4.weight", "6.weight"}
