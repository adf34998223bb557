"""Recipes follow the solvers that the networks' authors published."""

from __future__ import annotations

import pickle

import pytest

from distsqz.models.registry import MODELS, recipe_for


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("squeezenet")])
def test_squeezenets_are_trained_by_their_own_solver(name: str) -> None:
    recipe = recipe_for(name)
    assert (recipe.lr, recipe.batch, recipe.momentum, recipe.weight_decay) == (0.04, 512, 0.9, 2e-4)


@pytest.mark.parametrize("name", ["alexnet", "alexnet_bvlc"])
def test_alexnets_are_trained_by_caffes_solver(name: str) -> None:
    recipe = recipe_for(name)
    assert (recipe.lr, recipe.batch, recipe.momentum, recipe.weight_decay) == (0.01, 256, 0.9, 5e-4)


def test_squeezenets_rate_falls_straight_to_zero() -> None:
    rates = [recipe_for("squeezenet").lr_at(step, 170_000) for step in (0, 85_000, 127_500, 170_000, 200_000)]
    assert rates == pytest.approx([0.04, 0.02, 0.01, 0.0, 0.0])


@pytest.mark.parametrize("shrunk", [1, 100, 50_000])
def test_alexnets_rate_falls_to_a_tenth_exactly_at_each_hundred_thousand(shrunk: int) -> None:
    recipe = recipe_for("alexnet_bvlc")
    total_steps = 450_000 // shrunk
    for step in range(0, total_steps, max(1, 10_000 // shrunk)):
        drops = step * shrunk // 100_000
        assert recipe.lr_at(step, total_steps) == pytest.approx(0.01 / 10**drops), step
        if step * shrunk % 100_000 == 0 and step:
            assert recipe.lr_at(step - 1, total_steps) == pytest.approx(0.01 / 10 ** (drops - 1)), step


def test_a_model_of_ones_own_keeps_one_rate() -> None:
    recipe = recipe_for("my.models:net")
    assert recipe.lr_at(0, 10) == recipe.lr_at(9, 10) == recipe.lr == 0.01


@pytest.mark.parametrize("name", MODELS)
def test_recipes_travel_to_workers(name: str) -> None:
    assert pickle.loads(pickle.dumps(recipe_for(name))) == recipe_for(name)
