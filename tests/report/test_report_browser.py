"""The report in a browser: nothing overflows a phone's page, dark follows the reader's wish, and paper takes it all."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import report_runs as made

from biaslab.commands.report import report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--allow-file-access-from-files", "--virtual-time-budget=5000",
]  # fmt: skip
MEASURE = """<!doctype html><body><iframe src="report.html" style="width:{width}px;border:0"></iframe><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement, view = page.defaultView
  const wide = [...page.querySelectorAll("body *")].filter(
    (e) => !e.closest(".scroll, .skip, .hidden") && e.getBoundingClientRect().right > {width} + 1
  )
  const small = [...page.querySelectorAll("svg text")].map((e) => e.getBoundingClientRect().height)
  document.title = [
    root.scrollWidth, wide.length, view.getComputedStyle(page.body).backgroundColor,
    view.getComputedStyle(page.querySelector("svg text")).fill, Math.min(...small),
  ].join("|")
}}
</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("browser")
    run = made.cards(made.effects(made.debias(place / "debias/version_0")))
    report([str(run), str(made.table(place / "table/tiny")), str(made.comparison(place / "c"))], str(place / "out"))
    return place / "out/report.html"


def browse(folder: Path, *arguments: str) -> str:
    command = [str(CHROMIUM), *QUIET, f"--user-data-dir={folder / 'user'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def measured(page: Path, folder: Path, width: int, *arguments: str) -> list[str]:
    wrapper = page.with_name(f"wrapper-{width}.html")
    wrapper.write_text(MEASURE.format(width=width))
    (title,) = re.findall(r"<title>(.*)</title>", browse(folder, *arguments, "--dump-dom", wrapper.as_uri()))
    return title.split("|")


@pytest.mark.parametrize("width", [360, 768])
def test_nothing_overflows_the_page(page, tmp_path, width):
    scrolled, wide, _, _, smallest = measured(page, tmp_path, width)
    assert int(scrolled) <= width
    assert int(wide) == 0
    assert float(smallest) >= 7  # pixels: the smallest letters of a figure


def test_dark_and_light_follow_the_reader(page, tmp_path):
    colors = [
        measured(page, tmp_path / scheme, 1200, f"--blink-settings=preferredColorScheme={number}")[2:4]
        for number, scheme in enumerate(("dark", "light"))
    ]
    (dark, dark_ink), (light, light_ink) = ([brightness(color) for color in pair] for pair in colors)
    assert dark < 60 < 180 < dark_ink
    assert light_ink < 60 < 180 < light


def brightness(color: str) -> float:
    parts = [int(part) for part in re.findall(r"\d+", color)[:3]]
    return sum(parts) / 3


def test_it_prints(page, tmp_path):
    browse(
        tmp_path, "--blink-settings=preferredColorScheme=0", f"--print-to-pdf={tmp_path / 'page.pdf'}", page.as_uri()
    )
    content = (tmp_path / "page.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 40
