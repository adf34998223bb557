"""`examples/own_model.py`, the model of a user's own, makes a training step as each strategy will."""

from __future__ import annotations

from distsqz.strategies.all_reduce.strategy import AllReduce
from distsqz.strategies.parameter_server.strategy import ParameterServer
from distsqz.training.options import TrainingOptions
from distsqz.training.try_out import try_out


def test_the_example_model_can_be_trained_under_both_strategies_and_has_ten_classes() -> None:
    tried = try_out(
        "examples.own_model:ResidualNet",
        TrainingOptions(image_size=32),
        "synthetic images",
        evaluates=False,
        gpus=False,
    )
    assert tried.result.outputs == 10
    for strategy in (AllReduce(), ParameterServer()):
        strategy.refuse(tried.result)
    assert not tried.notices
