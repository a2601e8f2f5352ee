"""``strong-envs demo``: what a search shows, without and with a browser."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from chromium import PROGRAM, Chromium

from strong_envs import agents, features
from strong_envs.benchmarks.cli import main
from strong_envs.benchmarks.demo import command
from strong_envs.benchmarks.demo.models import model_of
from strong_envs.benchmarks.demo.search import DRAWN_ONLY, search_file, search_query
from strong_envs.benchmarks.demo.server import OUTSIDE
from strong_envs.benchmarks.demo.time_bar import time_bar
from strong_envs.features import DataError
from strong_envs.rendering.viewer import TRUE_COLOUR, Viewer, write_video

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def bank():
    return features.load("shapes-v0", "test")


@pytest.fixture(scope="module")
def drawn_file(bank, tmp_path_factory):
    """The first video of the test part as a file that a user may have."""
    viewer = Viewer(bank)
    pictures = [viewer.frame(0, row).repeat(4, 0).repeat(4, 1) for row in range(int(bank.n_frames[0]))]
    return write_video(tmp_path_factory.mktemp("drawn") / "drawn.mp4", pictures, fps=10.0)


def greens(picture):
    return int((np.abs(picture.astype(int) - TRUE_COLOUR).max(-1) <= 2).sum())


def test_a_search_shows_the_windows_of_the_prediction(bank):
    model = model_of("pretrained")
    found = search_query(model, bank, bank.qids[0])
    moment = model.predictor.predict(bank.queries[0].video, bank.texts[0])
    assert found.path[-1] == pytest.approx([moment.start, moment.end]) and len(found.path) == len(moment.path)
    pictures = found.pictures()
    assert len(pictures) == len(found.path) and {p.shape for p in pictures} == {(360, 480, 3)}
    assert (pictures[0] != pictures[-1]).any()
    assert f"{moment.start:.1f} to {moment.end:.1f} s" in found.answer()


def test_the_truth_is_shown_on_request_alone(bank):
    found = search_query(model_of("pretrained"), bank, bank.qids[0])
    start, end = bank.queries[0].windows[0]
    assert "Truth" not in found.answer() and f"Truth: {start:.1f} to {end:.1f} s. IoU" in found.answer(truth=True)
    # The word "true" beside its bar is green too.
    assert greens(found.picture(0, truth=True)) > greens(found.picture(0)) + 500


def test_a_file_of_the_drawn_world_is_found_as_its_stored_features_are(bank, drawn_file):
    model = model_of("pretrained")
    found = search_file(model, drawn_file, bank.texts[0])
    ((start, end),) = bank.queries[0].windows
    assert min(end, found.moment.end) - max(start, found.moment.start) > 0.5 * (end - start)
    assert found.note == DRAWN_ONLY and DRAWN_ONLY in found.answer()
    assert (found.picture(0) != found.picture(len(found.path) - 1)).any()


def test_what_the_model_is_stands_beside_the_answer():
    said = model_of("pretrained").about()
    assert "mIoU 9" in said and "3,815 held-out queries" in said and "nothing but videos of drawn shapes" in said


def marks(bar):
    return [float(left) for left in re.findall(r'class="look[^"]*" style="left:([\d.]+)%', bar)]


def test_the_time_bar_marks_every_frame_that_a_system_reads(bank):
    found = search_query(model_of("pretrained"), bank, bank.qids[0])
    rows = int(bank.n_frames[0])
    assert len(marks(time_bar(found, 0))) == rows and f"{rows} of {rows} frames looked at" in time_bar(found, 0)
    assert 'class="true"' not in time_bar(found, 0) and 'class="true"' in time_bar(found, 0, truth=True)
    found.moment.frames_seen = 0.0  # a system that ignores the video
    assert not marks(time_bar(found, 0))
    found.moment.rows_seen = np.array([3, 30])
    assert marks(time_bar(found, 0)) == pytest.approx([100 * 3 / rows, 100 * 30 / rows], abs=1e-3)


def test_a_search_by_looks_shows_one_more_frame_a_step(bank, drawn_file):
    model = model_of("looks")
    model.looks = 8
    for found in (search_query(model, bank, bank.qids[0]), search_file(model, drawn_file, bank.texts[0])):
        steps = [found.looked(step) for step in range(len(found.path))]
        assert [len(rows) for rows in steps] == list(range(1, 9)) == [len(set(rows)) for rows in steps]
        assert steps[-1][:-1] == steps[-2] and len(marks(time_bar(found, 4))) == 5
        assert found.path[-1] == pytest.approx([found.moment.start, found.moment.end])
        assert "Looked at 8 of 60 frames" in found.answer()
        assert found.picture(2).shape == (360, 480, 3) and (found.picture(2) != found.picture(3)).any()
    assert "frames were decoded" in found.answer() and found.note.endswith(DRAWN_ONLY)
    seconds = model.predictor.predict(drawn_file, bank.texts[0], looks=8, say=False)
    assert (found.moment.start, found.moment.end) == pytest.approx((seconds.start, seconds.end))
    assert "looks at 20 frames of a video" in model.about() and "held-out queries" in model.about()


def test_a_store_of_other_features_is_one_sentence(ragged_store):
    other = features.load(ragged_store, "test")
    with pytest.raises(DataError, match="looks was trained on"):
        search_query(model_of("looks"), other, other.qids[0])


def test_sm_rl_says_which_frames_it_reads(bank):
    system = agents.make("sm-rl", features.load("shapes-v0", "train"), looks=5)
    out = system.predict(bank.masked())
    assert out.rows_seen.shape == (len(bank), 5)
    distinct = [len(set(rows)) for rows in out.rows_seen.tolist()]
    n_frames = bank.n_frames[bank.video]
    assert out.frames_seen.tolist() == pytest.approx([d / int(n) for d, n in zip(distinct, n_frames, strict=True)])


def test_a_file_that_is_no_video_is_one_sentence(tmp_path):
    (tmp_path / "no.mp4").write_text("no video")
    with pytest.raises(DataError, match=r"no\.mp4"):
        search_file(model_of("pretrained"), tmp_path / "no.mp4", "a red ball moves")


def test_without_gradio_it_is_one_sentence_with_the_install_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == f"error: {command.INSTALL}\n"
    assert 'pip install "strong-envs[demo]"' in command.INSTALL


def test_fonts_and_scripts_of_other_addresses_are_taken_out():
    page = b'<link rel="preconnect" href="https://fonts.example/"><script src="https://cdn.example/a.js"></script>'
    kept = b'<link rel="stylesheet" href="./a.css"><script>1</script><a href="https://example.org">x</a>'
    assert OUTSIDE.sub(b"", page + kept) == kept


@pytest.mark.slow
def test_the_page_in_a_browser(drawn_file, tmp_path, bank):
    pytest.importorskip("gradio", reason="gradio is not installed")
    if PROGRAM is None:
        pytest.skip("no Chromium on this machine")
    call = [sys.executable, "-W", "ignore", "-m", "strong_envs", "demo", "--port", "0"]
    page = subprocess.Popen(call, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        address = re.match(r"(http://127\.0\.0\.1:\d+/)", page.stdout.readline())[1]
        with Chromium(tmp_path / "profile", seconds=60) as browser:
            browser.open(address, 1280)
            browser.wait("document.querySelector('#find') && document.querySelector('#model')?.innerText")
            assert "nothing but videos of drawn shapes" in browser.run("document.querySelector('#model').innerText")
            browser.wait("document.querySelector('input[type=file]')")
            browser.choose_file("input[type=file]", drawn_file)
            browser.wait("/drawn/.test(document.querySelector('#video')?.innerText)")
            box = "document.querySelector('#sentence textarea, #sentence input')"
            typed = f"{box}.value = {bank.texts[0]!r}; {box}.dispatchEvent(new Event('input', {{bubbles: true}}))"
            browser.run(typed)
            browser.run("document.querySelector('#find').click()")
            browser.wait("document.querySelector('#file-film img')?.naturalWidth")
            said = browser.run("document.querySelector('#answer').innerText")
            assert (
                re.search(r"\d\.\d to \d\.\d s", said) and "looked at all 60 frames" in said and "drawn shapes" in said
            )
            marks = "document.querySelectorAll('#file-bar .look').length"
            assert browser.run(marks) == 60
            # The model that looks at a few frames: as many marks as it looked, fewer at an earlier step.
            browser.run("document.querySelector('#models input').focus()")
            browser.wait("document.querySelectorAll('[role=option]').length === 2")
            browser.press("ArrowDown")
            browser.wait("/looks/.test(document.querySelector('[role=option].active')?.innerText)")
            browser.press("Enter")
            browser.wait("document.querySelector('#looks input[type=range]')")
            browser.run("document.querySelector('#find').click()")
            browser.wait(f"{marks} === 20")
            told = "document.querySelector('#file-bar .bar').getAttribute('aria-label')"
            assert "look 20 of 20; 20 of 60 frames looked at" in browser.run(told)
            browser.run("document.querySelector('#file-step input[type=range]').focus()")
            browser.press("ArrowLeft")
            browser.wait(f"{marks} === 19")
            assert "look 19 of 20" in browser.run(told)
            browser.run(
                "[...document.querySelectorAll('button[role=tab]')].find(b => /Held/.test(b.textContent)).click()"
            )
            browser.wait("document.querySelector('#find-query')")
            browser.run("document.querySelector('#find-query').click()")
            browser.wait("document.querySelector('#query-still img')?.naturalWidth")
            truth = "document.querySelectorAll('#query-bar .true').length"
            assert browser.run(truth) == 0 and "Truth" not in browser.run("document.body.innerText")
            browser.run("document.querySelector('#truth input').click()")
            browser.wait("/Truth/.test(document.querySelector('#answer-query')?.innerText)")
            browser.wait(f"{truth} === 1")
            outside = [r for r in browser.requests if not r.startswith((address, "data:", "blob:"))]
            assert not outside and not browser.errors
            browser.open(address, 375)
            browser.wait("document.querySelector('#find')")
            assert browser.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    finally:
        page.send_signal(2)
        page.wait(timeout=60)
    assert page.returncode == 0
