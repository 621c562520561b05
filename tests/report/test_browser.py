"""The pages in a real browser: nothing is blocked or cut off, in both colour schemes and on narrow screens."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mspipe_triton.report.page import write_report
from tests.report.written import metrics, plan, result, write_run

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SCHEMES = {
    "dark": ("0", "rgb(15, 19, 25)"),
    "light": ("1", "rgb(244, 245, 247)"),
}  # Chromium's number, the page's colour
WIDTHS = (400, 1200)
# Measures pages in frames: width, colour, charts, and texts of charts that reach beyond their card.
PROBE = """<!DOCTYPE html><meta charset="utf-8"><body>FRAMES<script>
addEventListener("load", () => {
  const seen = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, beyond = [];
    for (const text of page.querySelectorAll("svg.chart text")) {
      const box = text.getBoundingClientRect(), card = text.closest("svg.chart").getBoundingClientRect();
      if (box.left < card.left - 12 || box.right > card.right + 12) beyond.push(text.textContent);
    }
    const sizes = [...page.querySelectorAll("svg.chart")].map(chart => chart.getBoundingClientRect().height);
    const colour = page.defaultView.getComputedStyle(page.body).backgroundColor;
    const charts = sizes.filter(size => size > 50).length, needed = page.documentElement.scrollWidth;
    return {width: frame.width, title: page.title, needed, charts, beyond, colour};
  });
  document.body.textContent = "PROBED" + JSON.stringify(seen) + "PROBED";
});
</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    return path


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A run's page, and one that compares it with another run on other data."""
    folder = tmp_path_factory.mktemp("pages")
    lines = [plan(1, 0, None), *(metrics(epoch, lr=1e-3 / epoch) for epoch in (1, 2, 3))]
    name = "a stream with a long name, 'quotes' & <tags>"
    run = write_run(folder / "run", lines=lines, end=result(3, name), name=name)
    other = write_run(folder / ("a-folder-with-a-long-name" * 3))
    return [write_report([str(run)]), write_report([str(run), str(other)])]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_pages_render(scheme: str, browser: str, pages: list[Path], tmp_path: Path) -> None:
    frames = [
        f'<iframe width="{width}" height="900" src="{page.as_uri()}"></iframe>' for page in pages for width in WIDTHS
    ]
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.replace("FRAMES", "".join(frames)), encoding="utf-8")
    number, colour = SCHEMES[scheme]
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}", f"--blink-settings=preferredColorScheme={number}", "--dump-dom",
    ]  # fmt: skip
    done = subprocess.run([browser, *flags, probe.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    match = re.search("PROBED(.*)PROBED", done.stdout, re.DOTALL)
    assert match is not None, done.stdout
    seen: list[dict[str, Any]] = json.loads(html.unescape(match[1]))
    assert [each["charts"] for each in seen] == [7, 7, 4, 4]
    assert seen[0]["title"] == "tgn on a stream with a long name, 'quotes' & <tags> – mspipe-triton"
    for each in seen:
        assert each["colour"] == colour
        assert each["needed"] <= int(each["width"]), "the page would scroll sideways"
        assert not each["beyond"]
