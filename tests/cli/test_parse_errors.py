"""A command line that cannot be parsed: one line that says what to type instead."""

from __future__ import annotations

import pytest

from distsqz.cli import compare, ddp, predict, report
from distsqz.cli.command import parse
from distsqz.errors import RequestError


@pytest.mark.parametrize(
    ("command", "words", "line"),
    [
        (ddp, "--models squeezenet", "--models: no option of this command (perhaps you meant --model)"),
        (compare, "--model squeezenet", "--model: no option of this command (perhaps you meant --models)"),
        (ddp, "--strategies ps", "--strategies: no option of this command, but of `distsqz compare` and"),
        (ddp, "--staleness=2", "--staleness: no option of this command, but of `distsqz ps`, "),
        (ddp, "squeezenet", "squeezenet: no option; give a model as --model squeezenet"),
        (compare, "alexnet", "alexnet: no option; give a model as --models alexnet"),
        (ddp, "--steps many", "--steps many: must be a whole number"),
        (ddp, "--epochs 1.5", "--epochs 1.5: must be a whole number"),
        (ddp, "--lr low", "--lr low: must be a number"),
        (ddp, "--precision fp8", "--precision fp8: choose fp32 or bf16"),
        (report, "--format xml", "--format xml: choose table, markdown, csv, json or latex"),
        (ddp, "--model", "--model: needs a value"),
        (predict, "--workers 2 x", "--workers 2 x: not what it takes"),
        (ddp, "--frobnicate", "Unrecognized options: --frobnicate; --help lists the options"),
    ],
)
def test_a_line_names_the_option_its_value_and_what_would_be_right(
    command: object, words: str, line: str
) -> None:
    with pytest.raises(RequestError) as refused:
        parse(command.Options, "", words.split())  # type: ignore[attr-defined]
    assert str(refused.value).startswith(line)
