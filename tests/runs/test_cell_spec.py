"""The three keys of a cell: its id, what makes cells alike, what a checkpoint must match."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from distsqz.errors import RequestError
from distsqz.runs.cell_spec import LONGEST_ID, CellSpec, label_of, rules, rules_by_option, session_names
from distsqz.strategies.all_reduce.options import AllReduceOptions
from distsqz.strategies.parameter_server.options import ServerOptions
from distsqz.training.options import TrainingOptions


def spec(
    server: ServerOptions | None = None,
    model: str = "squeezenet",
    bucket_mb: float | None = None,
    **training: Any,
) -> CellSpec:
    return CellSpec(
        model=model,
        strategy="ps" if server else "ddp",
        world_size=2,
        training=TrainingOptions(**training),
        strategy_options=server or AllReduceOptions(bucket_mb=bucket_mb),
    )


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        (spec(), "squeezenet-ddp-w2"),
        (spec(ServerOptions()), "squeezenet-ps-w2"),
        (spec(model="tests.own_models:SmallNet"), "tests.own_models.SmallNet-ddp-w2"),
        (spec(precision="bf16", bucket_mb=1.0), "squeezenet-ddp-w2-bf16-bucket1"),
        (spec(bucket_mb=2.5, lr=1e-5), "squeezenet-ddp-w2-lr1e_05-bucket2.5"),
        (spec(metered=False, data="fashion-mnist"), "squeezenet-ddp-w2-data.fashion_mnist-metered.off"),
        (spec(ServerOptions(consistency="ssp", staleness=3)), "squeezenet-ps-w2-ssp-staleness3"),
    ],
)
def test_an_id_spells_what_differs_from_the_defaults(cell: CellSpec, name: str) -> None:
    assert cell.id == name


def test_what_a_readable_id_cannot_hold_becomes_a_digest() -> None:
    long = spec(data="imagefolder:/" + "x" * 300)
    assert re.fullmatch(r"squeezenet-ddp-w2-data.imagefolder__x+\+[0-9a-f]{16}", long.id)
    assert len(long.id) == LONGEST_ID


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of an option's type, none of which is refused for its size."""
    plain = {
        int: st.integers(1, 2**62),
        float: st.floats(0, 1e9, exclude_min=True),
        str: st.text(max_size=200),
    }
    return st.one_of([plain.get(each, st.from_type(each)) for each in _alternatives(kind)])


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if type(None) in get_args(kind) else (kind,)


def instances(kind: type) -> st.SearchStrategy[Any]:
    """Options in which some fields differ from their defaults; the defaults where they do not go together."""

    def made(changes: dict[str, Any]) -> Any:
        try:
            return kind(**changes)
        except RequestError:
            return kind()

    hints = get_type_hints(kind).items()
    return st.fixed_dictionaries({}, optional={name: values(of) for name, of in hints}).map(made)


def specs(strategy: str, options: st.SearchStrategy[Any]) -> st.SearchStrategy[CellSpec]:
    """Cells under a strategy, which alone has options of its own or has none."""
    return st.builds(
        CellSpec,
        model=st.sampled_from(["squeezenet", "alexnet", "a.b:C", "a:b.C", "a.b.C", "a-b:C"])
        | st.text(max_size=9),
        strategy=st.just(strategy),
        world_size=st.integers(1, 99),
        training=instances(TrainingOptions),
        strategy_options=options,
        settled=st.just({}),
    )


SPECS = specs("ddp", st.none()) | specs("ps", instances(ServerOptions)) | specs("alone", st.none())


@given(first=SPECS, second=SPECS)
@example(first=spec(data="x-bf16"), second=spec(data="x", precision="bf16"))
@example(first=spec(model="a:b.C"), second=spec(model="a.b:C"))
@example(first=spec(lr=0.1), second=spec(lr=0.10000000000000002))
@example(first=spec(data="a_b"), second=spec(data="a-b"))
def test_no_two_different_cells_share_an_id(first: CellSpec, second: CellSpec) -> None:
    assume(first != second)
    assert first.id != second.id


@given(cell=SPECS, change=st.data())
def test_a_cell_that_differs_in_one_option_has_another_id(cell: CellSpec, change: st.DataObject) -> None:
    name = change.draw(st.sampled_from([each.name for each in fields(TrainingOptions)]))
    value = change.draw(values(get_type_hints(TrainingOptions)[name]))
    try:
        other = replace(cell, training=replace(cell.training, **{name: value}))
    except RequestError:
        assume(False)
    assert (other.id == cell.id) == (other == cell)


@given(cell=SPECS)
def test_an_id_suits_any_file_system_and_equal_cells_share_it(cell: CellSpec) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_.+-]+", cell.id)
    assert len(cell.id) <= LONGEST_ID
    assert replace(cell, training=replace(cell.training), settled={"image_size": 7}).id == cell.id


def test_it_is_clear_where_a_label_ends_and_no_two_options_have_the_same() -> None:
    every = rules_by_option(TrainingOptions) | rules_by_option(ServerOptions)
    labels = [label for name, of in every.items() if (label := label_of(name, of))]
    assert len(set(labels)) == len(labels)
    assert all(re.fullmatch("[a-z]+", label) for label in labels)


@dataclass(frozen=True, kw_only=True)
class NewOptions:
    """Options to which one was added, and others that declare their exceptions."""

    added: int = 0
    steps: int = field(default=20, metadata=rules(not_alike="a reason", not_resumed="a reason"))
    rounding: str = field(default="even", metadata=rules(not_resumed="a reason"))


def test_an_added_option_counts_in_every_key_by_itself() -> None:
    plain = CellSpec(model="m", strategy="ddp", world_size=1, training=NewOptions())
    other = replace(plain, training=NewOptions(added=1))
    assert plain.id == "m-ddp-w1"
    assert other.id == "m-ddp-w1-added1"
    assert other.alike_key() != plain.alike_key()
    assert other.alike_key(but={"added"}) == plain.alike_key(but={"added"})
    assert other.resume_key() != plain.resume_key()


def test_exceptions_are_those_that_an_option_declares() -> None:
    plain = CellSpec(model="m", strategy="ddp", world_size=1, training=NewOptions())
    longer, rounded = (
        replace(plain, training=NewOptions(**each)) for each in ({"steps": 9}, {"rounding": "up"})
    )
    assert longer.id == "m-ddp-w1-steps9"
    assert (longer.alike_key(), longer.resume_key()) == (plain.alike_key(), plain.resume_key())
    assert rounded.resume_key() == plain.resume_key()
    assert rounded.alike_key() != plain.alike_key()


def test_more_steps_are_still_the_same_training() -> None:
    assert spec(steps=40).resume_key() == spec().resume_key()
    assert spec(seed=1).resume_key() != spec().resume_key()


def test_options_are_read_back_by_group_with_what_was_settled() -> None:
    cell = replace(spec(bucket_mb=1.0, seed=3), settled={"image_size": 224})
    groups = cell.options()
    assert list(groups) == ["model", "strategy", "training"]
    assert (groups["model"]["model"], groups["model"]["image_size"]) == ("squeezenet", 224)
    assert (groups["strategy"]["strategy"], groups["strategy"]["bucket_mb"]) == ("ddp", 1.0)
    assert groups["training"]["seed"] == 3
    names = [name for group in groups.values() for name in group]
    assert len(set(names)) == len(names)


def test_cells_of_a_session_are_called_by_what_they_differ_in() -> None:
    specs = [spec(lr=0.1), spec(lr=0.1, precision="bf16"), spec(lr=0.1, bucket_mb=1.0)]
    assert session_names(specs) == [
        "squeezenet-ddp-w2",
        "squeezenet-ddp-w2-bf16",
        "squeezenet-ddp-w2-bucket1",
    ]
    assert session_names(specs[1:2]) == ["squeezenet-ddp-w2"]


def test_cells_whose_differing_values_cannot_be_spelled_have_their_ids() -> None:
    specs = [spec(data="imagefolder:/a b"), spec(data="imagefolder:/a_b")]
    assert session_names(specs) == [each.id for each in specs]
