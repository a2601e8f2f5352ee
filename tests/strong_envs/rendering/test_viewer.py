"""Pictures: what is on them, and that a machine without a display says so instead of dying."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from random_stores import random_store

import strong_envs
from strong_envs.features import DataError, FeatureStore, Query, StoreContents, write_store
from strong_envs.rendering.viewer import (
    CHOSEN_COLOUR,
    HEIGHT,
    TRUE_COLOUR,
    WIDTH,
    ascii_only,
    display_problem,
    write_video,
)

LEVELS = {
    "TemporalMoment-v0": {},
    "SpatialTrack-v0": {"reward": "box_iou"},
    "TemporalOneShot-v0": {},
    "TemporalLook-v0": {},
}


def has(picture, colour):
    return bool((np.abs(picture.astype(int) - colour).max(-1) < 12).any())


@pytest.mark.parametrize("features", ["shapes-v0", "random"])
@pytest.mark.parametrize("name", LEVELS)
def test_a_picture_shows_both_windows_and_follows_the_episode(name, features, ragged_store):
    source = ragged_store if features == "random" else features
    env = gym.make(name, features=source, render_mode="rgb_array", **LEVELS[name])
    env.reset(seed=0, options={"sample": 4})
    before = env.render()
    actions = {"TemporalOneShot-v0": np.array([0.3, 0.9], np.float32), "TemporalLook-v0": 40}
    env.step(actions.get(name, 3))
    after = env.render()
    for picture in (before, after):
        assert picture.shape == (HEIGHT, WIDTH, 3) and picture.dtype == np.uint8
    assert has(after, TRUE_COLOUR) and has(after, CHOSEN_COLOUR) and not np.array_equal(before, after)
    np.testing.assert_array_equal(after, env.render())


@pytest.mark.parametrize("boxes", ["initial", "truth", "frame"])
def test_the_boxes_of_f_o_are_drawn(boxes, ragged_store):
    env = gym.make("TemporalMoment-v0", features=ragged_store, boxes=boxes, render_mode="rgb_array")
    env.reset(seed=0, options={"sample": 6})
    assert has(env.render()[48:250], CHOSEN_COLOUR) == (boxes != "frame")


def test_features_without_a_grid_are_a_bar_that_can_be_seen(tmp_path):
    store = random_store(tmp_path / "bare", [20, 30], grid=False)
    env = gym.make("TemporalMoment-v0", features=str(store.path), render_mode="rgb_array")
    env.reset(seed=0)
    coloured = env.render()[48:250].astype(int)
    # Viridis has saturated colours, the canvas and its letters are grey.
    assert ((coloured.max(-1) - coloured.min(-1)) > 60).any(1).sum() > 50


def test_any_text_and_any_length_can_be_shown(tmp_path):
    store = random_store(tmp_path / "plain", [1, 3, 5000])
    words = ["日本語のクエリ", "naïve café " * 40, "", "a\nb\tc\x00", "x" * 500, "é"]
    queries = [Query(q.qid, q.video, words[i], q.windows) for i, q in enumerate(store.queries)]
    grid, frames, vectors = (store.tensor(name) for name in ("grid", "frames", "queries"))
    odd = write_store(
        tmp_path / "odd",
        StoreContents(
            name="odd",
            videos=FeatureStore.open(store.path).videos,
            queries=queries,
            frames=frames,
            query_vectors=vectors,
            grid=grid,
        ),
    )
    env = gym.make("TemporalMoment-v0", features=str(odd.path), render_mode="rgb_array")
    for sample in range(6):
        env.reset(options={"sample": sample})
        assert env.render().shape == (HEIGHT, WIDTH, 3)
    assert ascii_only("naïve") == "na?ve"


def test_render_without_a_mode_warns_and_with_a_wrong_one_raises(ragged_store):
    env = gym.make("TemporalMoment-v0", features=ragged_store).unwrapped
    env.reset()
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None
    for name, options in LEVELS.items():
        with pytest.raises(DataError, match="render_mode must be one of"):
            gym.make(name, features=ragged_store, render_mode="ansi", **options)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="displays are found by environment variables on Linux")
@pytest.mark.parametrize("display", [None, ":765"])
def test_human_without_a_display_is_one_clear_error(display, ragged_store):
    """In a process of its own, which OpenCV would abort."""
    code = (
        "import gymnasium as gym, strong_envs, sys\n"
        "from features import DataError\n"
        f"env = gym.make('TemporalMoment-v0', features={ragged_store!r}, render_mode='human')\n"
        "try:\n    env.reset()\n"
        "except DataError as error:\n    print('said:', error)\n"
        "env.close()\n"
    )
    kept = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")}
    root = os.path.dirname(os.path.dirname(strong_envs.__file__))
    kept |= {"PYTHONPATH": root} | ({"DISPLAY": display} if display else {})
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=kept)
    assert done.returncode == 0, done.stderr
    assert "said: render_mode='human' needs a display" in done.stdout and "rgb_array" in done.stdout


def test_human_shows_every_step(ragged_store, monkeypatch):
    import cv2

    shown = []
    display_problem.cache_clear()
    monkeypatch.setattr("strong_envs.rendering.viewer.display_problem", lambda: None)
    monkeypatch.setattr(cv2, "imshow", lambda name, picture: shown.append(picture))
    monkeypatch.setattr(cv2, "waitKey", lambda delay: -1)
    monkeypatch.setattr(cv2, "destroyWindow", lambda name: shown.append(None))
    for name, options in LEVELS.items():
        shown.clear()
        env = gym.make(name, features=ragged_store, render_mode="human", **options)
        env.reset(seed=0)
        env.step(env.action_space.sample())
        env.close()
        assert len(shown) == 3 and shown[0].shape == (HEIGHT, WIDTH, 3) and shown[2] is None


def test_pictures_of_two_sizes_are_no_video(tmp_path):
    small, large = np.zeros((4, 4, 3), np.uint8), np.zeros((6, 4, 3), np.uint8)
    with pytest.raises(DataError, match="one size"):
        write_video(tmp_path / "v.mp4", [small, large])
    with pytest.raises(DataError, match="no pictures"):
        write_video(tmp_path / "v.mp4", [])
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on files")
def test_a_video_that_does_not_fit_the_disk_leaves_the_old_one(tmp_path):
    """OpenCV reports no error."""
    code = (
        "import resource, signal, sys\n"
        "import numpy as np\n"
        "from strong_envs.features.errors import DataError\n"
        "from strong_envs.rendering.viewer import write_video\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "pictures = np.random.default_rng(0).integers(0, 255, (20, 64, 64, 3), np.uint8)\n"
        "write_video(sys.argv[1], pictures)\n"
        "before = open(sys.argv[1], 'rb').read()\n"
        "for limit in (0, 100, len(before) // 2):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))\n"
        "    try:\n"
        "        write_video(sys.argv[1], pictures)\n"
        "        raise SystemExit('written')\n"
        "    except DataError:\n"
        "        pass\n"
        "    assert open(sys.argv[1], 'rb').read() == before\n"
    )
    file = tmp_path / "clip.mp4"
    done = subprocess.run([sys.executable, "-c", code, str(file)], cwd=Path(__file__).parents[3], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert os.listdir(tmp_path) == [file.name]
