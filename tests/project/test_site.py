"""The documentation site: it builds without a warning, opens in a browser at two widths, and asks no other address."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from chromium import PROGRAM, Chromium

import strong_envs

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_shows_every_environment_and_how_to_cite():
    for name in strong_envs.IDS:
        assert f"docs/gallery/{name}.gif" in README and f"| `{name}` |" in README, name
        assert (ROOT / "docs" / "gallery" / f"{name}.gif").is_file()
        for page in ("index.md", "gallery.md"):
            assert f"gallery/{name}.gif" in (ROOT / "docs" / page).read_text(encoding="utf-8"), (page, name)
    assert "@inproceedings{cao2020strong" in README and len(README.splitlines()) < 160


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    pytest.importorskip("material", reason="mkdocs-material is not installed")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return out


@pytest.mark.slow
def test_every_environment_tutorial_and_system_has_a_page(pages):
    for name in strong_envs.IDS:
        text = (pages / "environments" / f"{name}.html").read_text(encoding="utf-8")
        assert "Observation space" in text and f"gallery/{name}.gif" in text
    for folder, pattern in (("tutorials", "[0-9]*.py"), ("systems", "*.md")):
        for file in (ROOT / "docs" / folder).glob(pattern):
            assert (pages / folder / f"{file.stem}.html").is_file(), file
    assert "span_iou" in (pages / "api" / "strong_envs.core.spans.html").read_text(encoding="utf-8")
    index = json.loads((pages / "search" / "search_index.json").read_text(encoding="utf-8"))
    assert any("Eq. 11" in doc["title"] + doc["text"] for doc in index["docs"])


@pytest.mark.slow
def test_pages_name_no_address_that_a_browser_would_ask(pages):
    asked = re.compile(
        r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=[\"']?(?:https?:)?//|<link\b[^>]*href=[\"']?https?:"
    )
    for file in pages.rglob("*.html"):
        found = [hit for hit in asked.findall(file.read_text(encoding="utf-8")) if "canonical" not in hit]
        links = re.findall(r"<link\b[^>]*>", file.read_text(encoding="utf-8"))
        outside = [x for x in links if "http" in x and 'rel="canonical"' not in x]
        assert not outside and not [x for x in found if not x.startswith("<link")], file
    for file in pages.glob("assets/javascripts/*.js"):
        assert "https://unpkg.com" not in file.read_text(encoding="utf-8"), file


@pytest.mark.slow
def test_the_site_in_a_browser(pages, tmp_path):
    if PROGRAM is None:
        pytest.skip("no Chromium on this machine")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(pages)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    try:
        with Chromium(tmp_path / "profile") as browser:
            for width in (1280, 375):
                for page in (
                    "index",
                    "gallery",
                    "environments/TemporalMoment-v0",
                    "tables",
                    "tutorials/01_first_agent",
                ):
                    browser.open(f"{address}{page}.html", width)
                    room = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
                    assert browser.run(room), (page, width)
                    assert browser.run("document.querySelector('h1').innerText.length > 3"), page
                    assert not [r for r in browser.requests if not r.startswith((address, "data:", "blob:"))], page
            # By the keyboard alone: the first key leads to the link that skips the navigation.
            browser.open(f"{address}tables.html", 1280)
            browser.press("Tab")
            assert browser.run("document.activeElement.classList.contains('md-skip')")
            # The other colour scheme is another one.
            colour = "getComputedStyle(document.body).backgroundColor"
            light = browser.run(colour)
            browser.run("document.querySelectorAll('[data-md-component=palette] input')[1].click()")
            browser.wait(f"{colour} !== {light!r}")
            assert not browser.errors
    finally:
        server.shutdown()
