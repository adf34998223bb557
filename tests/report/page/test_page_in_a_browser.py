"""The page in headless Chromium; set DISTSQZ_SCREENSHOTS to a directory to keep what it looks like."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from pages import page_of_run
from test_page import KINDS, write, write_sessions

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install chromium)"),
]

WIDTHS = [380, 820, 1400]
SCHEMES = ["light", "dark"]

FAULTS = """(() => {
  document.querySelectorAll('details').forEach(each => each.open = true);
  const faults = [], root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) faults.push(`the page is ${root.scrollWidth} wide`);
  for (const element of document.querySelectorAll('body *:not(svg *)')) {
    if (!element.closest('.scroll') && element.clientWidth && element.scrollWidth > element.clientWidth + 1)
      faults.push(`cut: ${element.tagName} ${element.className} ${element.textContent.slice(0, 60)}`);
  }
  for (const svg of document.querySelectorAll('svg')) {
    const frame = svg.getBoundingClientRect();
    if (!frame.width) continue;
    const texts = [...svg.querySelectorAll('text')].map(each => [each, each.getBoundingClientRect()]);
    texts.forEach(([element, box], index) => {
      const name = `${svg.getAttribute('aria-labelledby')}: ${element.textContent}`;
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1)
        faults.push(`outside ${name}`);
      for (const [other, second] of texts.slice(index + 1))
        if (box.left < second.right - 1 && second.left < box.right - 1
            && box.top < second.bottom - 3 && second.top < box.bottom - 3)
          faults.push(`overlap ${name} and ${other.textContent}`);
    });
  }
  return faults;
})()"""

SERIOUS = """axe.run(document, {resultTypes: ['violations']}).then(result => result.violations
  .filter(each => ['serious', 'critical'].includes(each.impact))
  .map(each => `${each.id}: ${each.nodes.slice(0, 3).map(node => node.html.slice(0, 200)).join(' | ')}`))"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module", params=[*KINDS, "sessions"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    path = folder / f"{request.param.replace(' ', '-')}.html"
    paths = write_sessions(folder) if request.param == "sessions" else [write(folder, request.param)]
    path.write_text(page_of_run(*paths).html)
    return path


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """axe-core's script, fetched from npm."""
    folder, npm = tmp_path_factory.mktemp("axe"), shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm")
    command = [npm, "install", "--silent", "--no-audit", "--no-fund", "axe-core@4"]
    if subprocess.run(command, cwd=folder, check=False, timeout=120).returncode:
        pytest.skip("axe-core could not be fetched")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_or_overlaps_and_nothing_is_asked_for(
    browser: Browser, page: Path, width: int, scheme: str
) -> None:
    visit = browser.open(page, width, scheme)
    assert browser.evaluate(FAULTS) == []
    if folder := os.environ.get("DISTSQZ_SCREENSHOTS"):
        browser.screenshot(Path(folder) / f"{page.stem}-{width}-{scheme}.png")
    assert (visit.requests, visit.complaints) == ([], [])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_has_no_serious_finding(browser: Browser, page: Path, scheme: str, axe: str) -> None:
    browser.open(page, 820, scheme)
    browser.evaluate(FAULTS)  # unfolds the timelines
    browser.evaluate(axe)
    assert browser.evaluate(SERIOUS) == []
