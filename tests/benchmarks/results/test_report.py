"""The report: one page, nothing outside it, and a script that runs in a browser where there is one."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import cv2
import numpy as np
import pytest
from chromium import PROGRAM, Chromium
from finished_run import finished_run

from strong_envs import features
from strong_envs.benchmarks.cli import main
from strong_envs.benchmarks.commands import report
from strong_envs.benchmarks.metrics.breakdown import bins, table
from strong_envs.benchmarks.results.figures import spread
from strong_envs.benchmarks.results.html_episodes import choose, sheet
from strong_envs.features.errors import DataError

VOID = {"meta", "input", "img", "br", "link", "hr"}


class Page(HTMLParser):
    """Collects tags, addresses and ids; ``open`` is empty at the end of a page whose tags are all closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.addresses, self.ids, self.wrong = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "href", "action", "data", "poster"):
                self.addresses.append(value)
            if name == "id":
                self.ids.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


@pytest.fixture(scope="module")
def finished(ragged_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    finished_run(ragged_store, folder)
    return folder


@pytest.fixture(scope="module")
def page(finished):
    return report.page(finished, 3)


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def test_the_page_is_well_formed_and_has_no_external_address(page):
    read = Page(page)
    assert not read.open and not read.wrong
    assert len(read.ids) == len(set(read.ids))
    assert all(address.startswith("#") for address in read.addresses)
    data = data_of(page)
    images = [f["uri"] for f in data["figures"]] + [e["sheet"] for e in data["episodes"]]
    assert images and all(uri.startswith("data:image/") for uri in images)
    script = re.sub(r"data:[^\"]*", "", page)
    assert not re.search(r"https?:(?!//www\.w3\.org)", script)
    assert len(page) < report.MOST_BYTES


def test_every_id_that_the_script_asks_for_is_there(page):
    read = Page(page)
    assert set(re.findall(r'\$\("([\w-]+)"\)', page)) <= set(read.ids)
    assert set(re.findall(r'href="#([\w-]+)"', page)) <= set(read.ids)
    assert set(re.findall(r'aria-labelledby="([\w-]+)"', page)) <= set(read.ids)


def test_the_page_has_what_the_run_has(page, finished, ragged_store):
    data, result = data_of(page), json.loads((finished / "results.json").read_text())
    bank = features.load(ragged_store, "test")
    assert [line[0] for line in data["table"]["body"]] == [row["system"] for row in result["rows"]]
    assert [q["id"] for q in data["queries"]] == bank.qids
    assert len(data["episodes"]) == 3 and not data["pixels"]
    for episode in data["episodes"]:
        assert set(episode["systems"]) == {"random", "good"}
        good = episode["systems"]["good"]
        assert len(good["path"]) == len(good["iou"]) == 4
        assert len(good["boxes"]) == len(episode["boxes"]) == len(episode["times"])
        assert episode["systems"]["random"]["boxes"] is None
        sample = bank.qids.index(episode["id"])
        assert good["iou"][-1] == pytest.approx(result_of(finished, result, "good")["scores"]["IoU"][sample], abs=2e-3)


def result_of(finished, result, label):
    return json.loads((finished / "cells" / f"{result['cells'][label][0]}.json").read_text())


def test_a_sentence_cannot_leave_its_place(finished, tmp_path, monkeypatch):
    nasty = "</script><img src=http://x.example/ onerror=alert(1)>"
    monkeypatch.setattr(report, "queries_of", lambda result, bank: [{"id": "q", "text": nasty, "true": [], "iou": {}}])
    html = report.page(finished, 0)
    assert nasty not in html and not Page(html).wrong
    assert data_of(html)["queries"][0]["text"] == nasty
    assert "innerHTML" not in html


def test_a_page_that_is_too_large_is_refused(finished, monkeypatch):
    monkeypatch.setattr(report, "MOST_BYTES", 1000)
    with pytest.raises(DataError, match="fewer --episodes"):
        report.page(finished, 1)


def test_the_command_writes_one_file(finished, tmp_path, capsys):
    out = tmp_path / "r.html"
    assert main(["report", str(finished), "--out", str(out), "--episodes", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == out.stat().st_size
    assert [f.name for f in tmp_path.iterdir()] == ["r.html"]
    assert main(["report", str(finished), "--out", str(tmp_path / "new" / "r.html"), "--episodes", "0"]) == 0
    assert (tmp_path / "new" / "r.html").stat().st_size > 0


def test_data_that_changed_is_refused(finished, ragged_store, capsys):
    assert main(["report", str(finished), "--features", "shapes-v0"]) == 2
    assert "not the data of this run" in capsys.readouterr().err


def test_frames_are_shrunk_to_their_room():
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (120, 200, 3), np.uint8) for _ in range(10)]
    wide, (w, h) = sheet(pictures, 10_000_000)
    assert (w, h) == (160, 96)
    small, (w, h) = sheet(pictures, len(wide) // 3)
    assert w < 160 and len(small) <= len(wide) // 3
    with pytest.raises(DataError, match="do not fit"):
        sheet(pictures, 100)
    tiny, size = sheet([np.zeros((80, 80, 3), np.uint8)], 100_000)
    assert size == [80, 80]
    import base64

    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(tiny.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (80, 640, 3)


def test_episodes_reach_from_the_worst_to_the_best(ragged_store):
    from finished_run import prediction_of

    bank = features.load(ragged_store, "train")
    found = prediction_of(bank, "random", 0)
    picked = choose(bank, found, 4)
    assert len(set(picked)) == 4
    assert len(set(choose(bank, found, 1000))) == len(bank)


def test_breakdowns_count_every_query_once():
    rng = np.random.default_rng(0)
    truth = np.sort(rng.random((200, 2)), axis=1)
    for kind in ("length", "position"):
        found = np.concatenate([b.index for b in bins(truth, kind)])
        assert len(found) == len(set(found.tolist())) and len(found) > 180
    scores = {"truth": truth, "videos": [f"v{i}" for i in range(200)], "IoU": {"a": [(truth[:, 0]).tolist()]}}
    rows = table(scores, "position")
    means = [row["systems"]["a"][0] for row in rows]
    assert means == sorted(means)
    with pytest.raises(DataError, match="did you mean 'length'"):
        bins(truth, "lenght")


def test_labels_are_spread_and_keep_their_order():
    placed = spread([0.5, 0.1, 0.5, 0.52, 0.9], 0.1)
    ordered = sorted(placed)
    assert all(b - a >= 0.1 - 1e-9 for a, b in pairwise(ordered))
    assert placed[1] == 0.1 and placed[4] == 0.9 and placed[0] < placed[2] < placed[3]
    assert spread([], 0.1) == []


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if PROGRAM is None:
        pytest.skip("no Chromium on this machine")
    with Chromium(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.mark.parametrize("width", [375, 1280])
def test_the_page_works_in_a_browser_by_keyboard_alone(page, finished, browser, tmp_path, width):
    file = tmp_path / "page.html"
    file.write_text(page, encoding="utf-8")
    browser.open(file, width)
    assert browser.requests[:1] == [file.as_uri()] and not browser.errors
    # Nothing from outside; what else was asked for is inside the page.
    assert all(address.startswith(("data:", "blob:")) for address in browser.requests[1:])
    assert browser.run("document.documentElement.scrollWidth - window.innerWidth") <= 0
    legend = browser.run("[...$('columns').children].map(item => item.textContent)")
    assert any(line.startswith("Acc@m: ") for line in legend)
    rows = json.loads((finished / "results.json").read_text())["rows"]
    assert browser.run("[...$('results').tBodies[0].rows].map(r => r.cells[0].textContent)") == [
        row["system"] for row in rows
    ]
    loaded = "Promise.all([...document.images].map(i => i.decode())).then(() => document.images.length)"
    assert browser.run(loaded) >= 6
    first = browser.run("$('sentence').textContent")
    for _ in range(60):  # to the player with the tabulator alone
        if browser.run("document.activeElement.id") == "player":
            break
        browser.press("Tab")
    assert browser.run("document.activeElement.id") == "player"
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for key, move in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1)):
        browser.press(key)
        assert browser.run("$('state').textContent").startswith(f"Step {move} of 3")
    inked = "new Set($('view').getContext('2d').getImageData(0, 0, $('view').width, $('view').height).data).size"
    assert browser.run(inked) > 10
    browser.press("ArrowDown")
    assert browser.run("$('sentence').textContent") != first
    browser.press(" ")
    assert browser.run("$('play').textContent") == "Pause"
    browser.press(" ")
    assert browser.run("$('play').textContent") == "Play"
    browser.run("$('find').focus()")
    browser.run("$('find').value = 'no such words'; $('find').dispatchEvent(new Event('input'))")
    assert browser.run("$('listed').textContent") == "0 of 3 episodes"
    assert browser.run("document.documentElement.scrollWidth - window.innerWidth") <= 0 and not browser.errors
