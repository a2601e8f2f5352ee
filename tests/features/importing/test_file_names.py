"""Names of feature files as extractors write them, two files for one video, and errors that name what is there."""

from __future__ import annotations

import argparse
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from strong_envs.features.commands import check as check_command
from strong_envs.features.commands import import_features
from strong_envs.features.datasets import parsing, read
from strong_envs.features.datasets.leaks import find_leaks
from strong_envs.features.datasets.types import Annotations, Query, Report, Video
from strong_envs.features.errors import DataError
from strong_envs.features.extraction import pipeline
from strong_envs.features.importing.feature_files import FeatureFiles, load_features
from strong_envs.features.importing.importer import import_store
from strong_envs.features.importing.options import FileOptions, ImportOptions
from strong_envs.features.store.store import FeatureStore

IDS = ("alpha", "beta", "gamma")


@pytest.fixture
def annotations(tmp_path) -> Annotations:
    return read(write_annotations(tmp_path))


def write_annotations(folder: Path, ids: tuple[str, ...] = IDS) -> Path:
    rows = [
        {"qid": k, "query": f"query {k}", "duration": 20, "vid": video, "relevant_windows": [[1, 9]]}
        for k, video in enumerate(ids)
    ]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "train.jsonl"


def write(file: Path, value: float, suffix: str = "npy") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = np.full((20, 3), value, np.float32)
    np.save(file, rows) if suffix == "npy" else np.savez(file, features=rows)


def values(store: FeatureStore) -> dict[str, float]:
    return {v.id: float(store.tensor("frames")[20 * k, 0]) for k, v in enumerate(store.videos)}


@pytest.mark.parametrize(
    ("pattern", "options"),
    [
        ("{}_clip.npy", {"suffix": "_clip"}),
        ("v_{}.npy", {"prefix": "v_"}),
        ("v_{}_clip.npz", {"prefix": "v_", "suffix": "_clip"}),
        ("v_{}.mp4_clip.npy", {"prefix": "v_", "suffix": "_clip"}),
        ("train/{}.npy", {}),
        ("a/b/{}.npz", {}),
        ("train/v_{}.npy", {"prefix": "v_"}),
        ("{}.avi.npy", {}),
        ("{}.NPY", {}),
        ("{}.3gp.npy", {}),
    ],
)
def test_names_with_a_prefix_a_suffix_or_in_sub_folders(pattern, options, annotations, tmp_path, capsys):
    folder = tmp_path / "f"
    for k, video in enumerate(IDS):
        file = folder / pattern.format(video)
        write(file.with_suffix(file.suffix.lower()), k + 1, file.suffix.lower()[1:])
        if file.suffix == ".NPY":
            file.with_suffix(".npy").rename(file)
    store, report = import_store(tmp_path / "s", annotations, folder, ImportOptions(**options))
    assert values(store) == {"alpha": 1, "beta": 2, "gamma": 3} and not report.findings
    if options:
        with pytest.raises(DataError) as error:
            import_store(tmp_path / "t", annotations, folder)
        for option, value in options.items():
            if ".mp4" not in pattern:
                assert f"--{option} {value}" in str(error.value)
        assert "alpha" in str(error.value) and not (tmp_path / "t").exists()


def test_an_id_with_its_folder_and_equal_names_in_two_folders(tmp_path):
    ids = ("train/alpha", "test/alpha", "beta")
    for k, video in enumerate(ids):
        write(tmp_path / "f" / f"{video}.npy", k + 1)
    store, _ = import_store(tmp_path / "s", read(write_annotations(tmp_path, ids)), tmp_path / "f")
    assert values(store) == {"train/alpha": 1, "test/alpha": 2, "beta": 3}
    _, report = load_features(tmp_path / "f", ["alpha", "beta"])
    assert report.kept == 1 and "2 arrays for 'alpha': test/alpha.npy, train/alpha.npy" in str(report)
    write(tmp_path / "f" / "alpha.npy", 9)
    loaded, _ = load_features(tmp_path / "f", ["alpha"])
    assert loaded["alpha"][0, 0] == 9, "a file higher up goes first"


def test_splits_in_groups_of_an_h5_file(tmp_path, annotations):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for split, videos in (("train", ("alpha", "beta")), ("test", ("gamma", "delta"))):
            for video in videos:
                file[f"{split}/{video}"] = np.full((20, 3), len(video), np.float32)
    store, _ = import_store(tmp_path / "s", annotations, tmp_path / "f.h5")
    assert values(store) == {"alpha": 5, "beta": 4, "gamma": 5}


@pytest.mark.parametrize(
    ("one", "other"),
    [("alpha.npy", "alpha.npz"), ("alpha.mp4.npy", "alpha.avi.npy"), ("a/alpha.npy", "b/alpha.npy")],
)
def test_two_files_for_one_video_are_never_chosen_silently(one, other, annotations, tmp_path):
    for k, name in enumerate((one, other)):
        write(tmp_path / "f" / name, k + 1, name[-3:])
    write(tmp_path / "f" / "beta.npy", 3)
    store, report = import_store(tmp_path / "s", annotations, tmp_path / "f")
    assert values(store) == {"beta": 3}
    assert "2 arrays for 'alpha'" in str(report) and one in str(report) and other in str(report)


def test_two_files_for_one_query_are_never_chosen_silently(tmp_path):
    from strong_envs.features.importing.feature_files import load_query_features

    for name in ("qid1", "1", "qid2"):
        (tmp_path / "t").mkdir(exist_ok=True)
        np.savez(tmp_path / "t" / f"{name}.npz", last_hidden_state=np.ones((3, 4), np.float32))
    loaded, report = load_query_features(tmp_path / "t", ["1", "2"])
    assert list(loaded) == ["2"] and "2 arrays for '1': 1.npz, qid1.npz" in str(report)


def test_the_name_itself_goes_before_one_with_the_suffix_of_a_video(annotations, tmp_path):
    write(tmp_path / "f" / "alpha.npy", 1)
    write(tmp_path / "f" / "alpha.mp4.npy", 2)
    with FeatureFiles(tmp_path / "f") as files:
        assert files.read("alpha")[0, 0] == 1 and files.read("alpha.mp4")[0, 0] == 2
    write(tmp_path / "g" / "alpha.npy", 1)
    write(tmp_path / "g" / "alpha_clip.npy", 2)
    with FeatureFiles(tmp_path / "g", FileOptions(suffix="_clip")) as files:
        assert files.read("alpha")[0, 0] == 2


def test_the_error_names_what_lies_there(annotations, tmp_path):
    for k in range(6):
        write(tmp_path / "f" / f"movie{k:03d}.npy", 1)
    with pytest.raises(DataError, match=r"files there are named movie000, movie001, movie002, movie003, \.\.\."):
        import_store(tmp_path / "s", annotations, tmp_path / "f")


def run(module: object, *words: object) -> int:
    parser = argparse.ArgumentParser()
    module.add_parser(parser.add_subparsers())
    args = parser.parse_args([*map(str, words)])
    return args.run(args)


def test_check_points_to_what_makes_a_store(clips, tmp_path, annotations, capsys):
    assert run(check_command, "check", clips) == 0
    out = capsys.readouterr().out
    assert "video files" in out and "files: 3" in out and f"next: strong-envs extract {clips} --annotations" in out
    nested = tmp_path / "nested"
    for split in ("train", "test"):
        (nested / split).mkdir(parents=True)
        (nested / split / "v.avi").write_bytes((clips / "v0.avi").read_bytes())
    assert run(check_command, "check", nested, "--json") == 0
    item = json.loads(capsys.readouterr().out)["items"][0]
    assert item["facts"]["files"] == 2 and item["next"].startswith("strong-envs extract")
    for video in IDS:
        write(tmp_path / "f" / "train" / f"{video}_clip.npy", 1)
    assert run(check_command, "check", tmp_path / "f") == 0
    assert "next: strong-envs import" in capsys.readouterr().out
    assert run(check_command, "check", tmp_path / "f", "--annotations", tmp_path / "train.jsonl") == 2
    assert "--suffix _clip" in capsys.readouterr().out
    words = ("--annotations", tmp_path / "train.jsonl", "--suffix", "_clip")
    assert run(check_command, "check", tmp_path / "f", *words) == 0


def test_a_broken_clip_and_an_empty_folder_are_said(tmp_path, capsys):
    (tmp_path / "v").mkdir()
    assert run(check_command, "check", tmp_path / "v") == 2 and "nothing" in capsys.readouterr().out
    (tmp_path / "v" / "v.mp4").write_bytes(b"no video")
    assert run(check_command, "check", tmp_path / "v") == 2 and "cannot be decoded" in capsys.readouterr().out


def test_readers_and_extraction_know_the_same_videos(tmp_path):
    assert pipeline.VIDEO_SUFFIXES is parsing.VIDEO_SUFFIXES
    from video_files import annotate, write_video

    for suffix in parsing.VIDEO_SUFFIXES:
        assert (
            parsing.strip_video_suffix(f"clip{suffix}") == parsing.strip_video_suffix(f"clip{suffix.upper()}") == "clip"
        )
    file = write_video(tmp_path / "v.avi", 10)
    file.rename(tmp_path / "v.3gp")
    from strong_envs.features.datasets.types import Report

    for name in ("v", "v.mp4"):
        assert pipeline.match_files([tmp_path], annotate({name: 1.0}), Report("x")) == {name: str(tmp_path / "v.3gp")}


def test_videos_in_sub_folders_belong_to_ids_with_their_folder(tmp_path):
    from video_files import annotate, write_video

    from strong_envs.features.datasets.types import Report

    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        write_video(tmp_path / split / "v.avi", 5)
    found = pipeline.match_files([tmp_path], annotate({"train/v": 1.0, "test/v.avi": 1.0}), Report("x"))
    files = {"train/v": "train/v.avi", "test/v.avi": "test/v.avi"}
    assert found == {name: str(tmp_path / file) for name, file in files.items()}
    with pytest.raises(DataError, match="two files"):
        pipeline.match_files([tmp_path], annotate({"v": 1.0}), Report("x"))
    with pytest.raises(DataError, match=r"test/v.avi, train/v.avi\) is one of the 1 annotated"):
        pipeline.match_files([tmp_path], annotate({"w": 1.0}), Report("x"))


def test_the_name_of_an_import_command(tmp_path, annotations, capsys):
    for video in IDS:
        write(tmp_path / "f" / f"v_{video}.npy", 1)
    words = ("import", tmp_path / "train.jsonl", "--features", tmp_path / "f", "--out", tmp_path / "s")
    assert run(import_features, *words) == 2 and "--prefix v_" in capsys.readouterr().err
    assert run(import_features, *words, "--prefix", "v_", "--name", "mine") == 0
    assert FeatureStore.open(tmp_path / "s").name == "mine"


@pytest.mark.parametrize(("written", "asked"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_the_form_of_an_accent_makes_no_difference(written, asked, tmp_path):
    """Some file systems store accents as letters of their own; the two names look the same."""
    spelt = {form: unicodedata.normalize(form, "vidéo") for form in ("NFC", "NFD")}
    np.save(tmp_path / f"{spelt[written]}.npy", np.ones((3, 2), np.float32))
    with FeatureFiles(tmp_path) as files:
        assert spelt[asked] in files and files.read(spelt[asked]).shape == (3, 2)
    clip = tmp_path / f"{spelt[written]}.mp4"
    clip.write_bytes(b"x")
    one = Annotations("x", {spelt[asked]: Video(spelt[asked], 1.0)}, [], Report("x"))
    assert pipeline.match_files([clip], one, Report("x")) == {spelt[asked]: str(clip)}
    queries = [
        Query("1", spelt["NFC"], "a", ((0.0, 1.0),), "train"),
        Query("2", spelt["NFD"], "b", ((0.0, 1.0),), "test"),
    ]
    assert "a video of train is in test as well" in {kind for kind, _ in find_leaks(queries).findings}


def test_a_link_that_leads_nowhere_costs_its_video_only(annotations, tmp_path):
    folder = tmp_path / "linked"
    folder.mkdir()
    for name in IDS[1:]:
        np.save(folder / f"{name}.npy", np.ones((10, 4), np.float32))
    (folder / f"{IDS[0]}.npy").symlink_to(tmp_path / "gone.npy")
    store, report = import_store(tmp_path / "store", annotations, folder)
    assert [video.id for video in store.videos] == list(IDS[1:])
    assert "a feature file cannot be used" in {kind for kind, _ in report.findings}


def test_a_prefix_or_suffix_that_no_file_has_is_refused(annotations, tmp_path):
    for name in IDS:
        write(tmp_path / "f" / f"{name}.npy", 1)
    for options in ({"suffix": "_clop"}, {"prefix": "w_"}, {"prefix": "w_", "suffix": "_clop"}):
        with pytest.raises(DataError, match="no feature file has .* files there are named 'alpha', 'beta', 'gamma'"):
            import_store(tmp_path / "s", annotations, tmp_path / "f", ImportOptions(**options))
    assert not (tmp_path / "s").exists()


def test_links_that_leave_the_folder_are_followed_and_named(annotations, tmp_path):
    for video in IDS:
        write(tmp_path / "f" / f"{video}.npy", 1.0)
    write(tmp_path / "elsewhere" / "secret.npy", 7.0)
    (tmp_path / "f" / "beta.npy").unlink()
    (tmp_path / "f" / "beta.npy").symlink_to(tmp_path / "elsewhere" / "secret.npy")
    (tmp_path / "f" / "gamma.npy").rename(tmp_path / "f" / "other.npy")
    (tmp_path / "f" / "gamma.npy").symlink_to("other.npy")
    store, report = import_store(tmp_path / "s", annotations, tmp_path / "f")
    assert values(store) == {"alpha": 1.0, "beta": 7.0, "gamma": 1.0}
    found = {f.kind: f.examples for f in report.findings.values()}
    (example,) = found["a feature file is a link to a file outside of its folder"]
    assert example.startswith("beta.npy is ") and example.endswith("secret.npy'")
    # A folder that is itself a link is not left by the files in it.
    (tmp_path / "link").symlink_to(tmp_path / "f")
    (tmp_path / "f" / "beta.npy").unlink()
    write(tmp_path / "f" / "beta.npy", 2.0)
    _, report = import_store(tmp_path / "t", annotations, tmp_path / "link")
    assert not report.findings
    # Grids and objects are read by the same rule.
    np.save(tmp_path / "elsewhere" / "g.npy", np.ones((20, 2, 2, 3), np.float32))
    (tmp_path / "g").mkdir()
    for video in IDS:
        (tmp_path / "g" / f"{video}.npy").symlink_to(tmp_path / "elsewhere" / "g.npy")
    _, report = import_store(tmp_path / "u", annotations, tmp_path / "f", ImportOptions(grid=tmp_path / "g"))
    assert report.findings["a feature file is a link to a file outside of its folder", "doubtful"].count == 3
