"""`--vary`: values of the option's own type, or one line on what would be right."""

from __future__ import annotations

import pytest

from distsqz.cli.vary import parse_vary
from distsqz.errors import RequestError
from distsqz.strategies.all_reduce.strategy import AllReduce
from distsqz.strategies.parameter_server.strategy import ParameterServer

DDP, PS = AllReduce(), ParameterServer()
BOTH = (DDP, PS)


def test_values_have_the_type_of_their_option() -> None:
    texts = ["bucket_mb=1,25,None", "precision=fp32,bf16", "batch-size=4,8", "metered=True,False"]
    assert parse_vary(texts, BOTH) == {
        "bucket_mb": [1.0, 25.0, None],
        "precision": ["fp32", "bf16"],
        "batch_size": [4, 8],
        "metered": [True, False],
    }


def test_options_of_a_parameter_server_vary_too() -> None:
    assert parse_vary(["consistency=sync,async"], (PS,)) == {"consistency": ["sync", "async"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("precison=fp32,bf16", "'precison' is no option of a cell; did you mean precision?"),
        ("bucket_mb=1,x", "'x' must be a number or None"),
        ("batch_size=1,2.5", "'2.5' must be a whole number"),
        ("precision=fp32,fp16", "'fp16' must be fp32 or bf16"),
        ("seed=1,--help", "'--help' must be a whole number"),
        ("bucket_mb=1", "give two or more values that differ"),
        ("bucket_mb=1,1.0", "give two or more values that differ"),
        ("bucket_mb", "'' must be a number or None"),
        ("servers=1,2", "the cells of a session share their servers"),
    ],
)
def test_what_does_not_parse_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(RequestError) as refused:
        parse_vary([text], BOTH)
    assert str(refused.value).startswith(f"--vary {text}: ")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_option_without_effect_on_any_strategy_is_refused() -> None:
    with pytest.raises(RequestError, match="has no effect under ps; leave it out"):
        parse_vary(["bucket_mb=1,25"], (PS,))
    with pytest.raises(RequestError, match="has no effect under ddp"):
        parse_vary(["staleness=1,2"], (DDP,))


def test_an_option_that_is_varied_twice_is_refused() -> None:
    with pytest.raises(RequestError, match="varied twice"):
        parse_vary(["seed=1,2", "seed=3,4"], BOTH)
