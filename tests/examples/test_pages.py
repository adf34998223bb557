"""README, docs and the other pages: their links lead somewhere, and distsqz accepts their commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from distsqz.cli.command import parse
from distsqz.cli.subcommands import SUBCOMMANDS

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)?(?:#([^)\s]+))?\)")
README_WORDS = 900
DEFAULT_WORDS = {"runs": ["list"]}
"""What a subcommand without words does."""


def commands() -> Iterator[str]:
    """Every `distsqz SUBCOMMAND ...` in a code block of a page, without its comment."""
    for page in PAGES:
        for line in page.read_text().splitlines():
            if line.startswith("    distsqz "):
                yield line.partition(" #")[0].strip()


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_to_a_file_and_a_heading_that_exist(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text()):
        if "://" in target:
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), f"{target}#{anchor}"


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_every_command_of_a_page_is_accepted(command: str) -> None:
    _, name, *words = shlex.split(command)
    assert name in SUBCOMMANDS
    module = import_module(f"distsqz.cli.{name}")
    options_type = module.Options if hasattr(module, "Options") else module.Command
    own = words[: words.index("--")] if "--" in words else words
    parse(options_type, SUBCOMMANDS[name], own or DEFAULT_WORDS.get(name, []))


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) < README_WORDS
