"""Clips are read from folders and lists as people have them; what cannot be used is counted, never a traceback."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from drawn_clips import captioned, class_folders, frames_of, write_clip

from strong_envs.benchmarks.cli import main
from strong_envs.features.composing.command import compose
from strong_envs.features.composing.encoding import EncodeOptions
from strong_envs.features.composing.options import ComposeOptions, Layout
from strong_envs.features.composing.readers.captions import read_captions
from strong_envs.features.composing.readers.class_folders import group_of, part_folder, read_class_folders
from strong_envs.features.composing.readers.split_files import apply_split_files, read_split_files
from strong_envs.features.composing.sources import ClipOptions, describe, open_clips
from strong_envs.features.datasets.advice import advice
from strong_envs.features.datasets.types import Report
from strong_envs.features.errors import DataError

SMALL = EncodeOptions(backbone="colour-cells", fps=5.0, pca=None)


def kinds(report: Report) -> dict[str, int]:
    return {f.kind: f.count for f in report.findings.values()}


@pytest.mark.parametrize(
    ("name", "label", "group"),
    [
        ("Archery/v_Archery_g07_c03.avi", "Archery", "Archery/g07"),
        ("kick/Movie_2_kick_f_cm_np1_ba_med_0.avi", "kick", "kick/Movie_2"),
        ("brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "brush_hair", "brush_hair/April_09"),
        ("train/abseiling/0347ZoDXyP0_000095_000105.mp4", "abseiling", "0347ZoDXyP0"),
        ("jump/jump_001.mp4", "jump", None),
    ],
)
def test_groups_are_told_from_the_names_of_the_data_sets(name, label, group):
    assert group_of(name, label) == group


def test_a_pattern_tells_groups_where_names_are_ones_own(tmp_path):
    for day in (1, 2):
        for shot in (1, 2):
            write_clip(tmp_path / "walk" / f"day{day}-shot{shot}.avi", frames_of((9, 9, 9), 4, shot))
    found = read_class_folders(tmp_path, group_pattern=r"day(\d+)")
    assert [c.group for c in found.clips] == ["1", "1", "2", "2"]
    with pytest.raises(DataError, match="no regular expression"):
        read_class_folders(tmp_path, group_pattern="(")


def test_parts_are_told_from_folders_as_kinetics_has_them(tmp_path):
    for part in ("train", "val_256"):
        write_clip(tmp_path / part / "surfing water" / "abcdefghijk_000001_000011.avi", frames_of((1, 2, 3), 4, 0))
    found = read_class_folders(tmp_path)
    # One clip in two folders stays one id: the check of parts finds it.
    assert [(c.id, c.part) for c in found.clips] == [
        ("surfing water/abcdefghijk_000001_000011", "train"),
        ("surfing water/abcdefghijk_000001_000011", "val"),
    ]
    assert part_folder("archery") is None


def test_files_outside_classes_and_other_files_are_left_out(tmp_path):
    class_folders(tmp_path, groups=1, names=("Archery",))
    write_clip(tmp_path / "stray.avi", frames_of((1, 2, 3), 4, 0))
    (tmp_path / "Archery" / "notes.txt").write_text("no clip")
    found = read_class_folders(tmp_path)
    assert [c.id for c in found.clips] == ["Archery/v_Archery_g01_c01"]
    assert kinds(found.report) == {"a file lies in no class folder": 1}
    with pytest.raises(DataError, match="no clips in class folders"):
        read_class_folders(tmp_path / "Archery")


def test_split_files_of_ucf_hmdb_and_kinetics(tmp_path):
    (tmp_path / "trainlist01.txt").write_text("Archery/v_Archery_g01_c01.avi 1\nArchery/v_Archery_g02_c01.avi 1\n")
    (tmp_path / "testlist01.txt").write_text("Archery/v_Archery_g03_c01.avi\n")
    (tmp_path / "trainlist02.txt").write_text("Archery/v_Archery_g03_c01.avi 1\n")
    (tmp_path / "testlist02.txt").write_text("Archery/v_Archery_g01_c01.avi\n")
    first = {k: v[0] for k, v in read_split_files([tmp_path], 1, Report("x")).items()}
    assert first == {
        "Archery/v_Archery_g01_c01": "train",
        "Archery/v_Archery_g02_c01": "train",
        "Archery/v_Archery_g03_c01": "test",
    }
    assert read_split_files([tmp_path], 2, Report("x"))["Archery/v_Archery_g03_c01"][0] == "train"
    hmdb = tmp_path / "hmdb"
    hmdb.mkdir()
    (hmdb / "brush_hair_test_split3.txt").write_text("a b_brush_hair_0.avi 1\nc.avi 2 \nd.avi 0\nbroken\n")
    report = Report("x")
    parts = {k: v[0] for k, v in read_split_files([hmdb], 3, report).items()}
    assert parts == {"brush_hair/a b_brush_hair_0": "train", "brush_hair/c": "test", "brush_hair/d": None}
    assert report.count("dropped") == 1
    table = tmp_path / "k.csv"
    with open(table, "w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["label", "youtube_id", "time_start", "time_end", "split"])
        writer.writerow(["surfing", "abcdefghijk", 5, 15, "validate"])
    parts = {k: v[0] for k, v in read_split_files([table], 1, Report("x")).items()}
    assert parts == {"abcdefghijk_000005_000015": "val"}
    with pytest.raises(DataError, match="no split 9"):
        read_split_files([tmp_path / "trainlist01.txt"], 9, Report("x"))


def test_split_files_are_applied_and_what_they_miss_is_counted(tmp_path):
    class_folders(tmp_path / "c", groups=3, names=("Archery",))
    found = read_class_folders(tmp_path / "c")
    file = tmp_path / "trainlist01.txt"
    file.write_text("Archery/v_Archery_g01_c01.avi 1\nArchery/v_Archery_g09_c01.avi 1\n")
    apply_split_files(found, read_split_files([file], 1, found.report))
    assert {c.id: c.part for c in found.clips} == {"Archery/v_Archery_g01_c01": "train"}
    assert kinds(found.report)["no split file names a clip"] == 2
    assert kinds(found.report)["a split file names a clip that is not there"] == 1


@pytest.mark.parametrize("form", ["jsonl", "one sentence a line", "msr-vtt", "by id", "csv", "coco"])
def test_captions_in_many_forms_are_the_same_clips(tmp_path, form):
    file = captioned(tmp_path, 6)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    pairs = [(r["clip"], c, r["source_id"]) for r in rows for c in r["captions"]]
    file.unlink()
    if form == "jsonl":
        file.write_text("\n".join(json.dumps(r) for r in rows))
    elif form == "one sentence a line":
        file.write_text("\n".join(json.dumps({"video_id": v, "caption": c, "url": s}) for v, c, s in pairs))
    elif form == "msr-vtt":
        file = tmp_path / "videodatainfo.json"
        videos = [{"video_id": r["clip"], "url": r["source_id"], "split": "train", "id": i} for i, r in enumerate(rows)]
        sentences = [{"video_id": v, "caption": c, "sen_id": i} for i, (v, c, _) in enumerate(pairs)]
        file.write_text(json.dumps({"info": {}, "videos": videos, "sentences": sentences}))
    elif form == "by id":
        file = tmp_path / "all.json"
        file.write_text(json.dumps({r["clip"]: {"captions": r["captions"], "source": r["source_id"]} for r in rows}))
    elif form == "csv":
        file = tmp_path / "all.csv"
        with open(file, "w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["Video", "Description", "Source"])
            writer.writerows(pairs)
    else:
        file = tmp_path / "coco.json"
        annotations = [{"video_id": v, "caption": c, "id": i} for i, (v, c, _) in enumerate(pairs)]
        videos = [{"video_id": r["clip"], "source": r["source_id"]} for r in rows]
        file.write_text(json.dumps({"annotations": annotations, "videos": videos}))
    found = read_captions(file)
    assert [c.id for c in found.clips] == [r["clip"] for r in rows]
    assert [list(c.sentences) for c in found.clips] == [r["captions"] for r in rows]
    assert [c.group for c in found.clips] == [r["source_id"] for r in rows]
    assert found.kind == "clips with captions"


def test_fields_with_names_of_their_own(tmp_path):
    write_clip(tmp_path / "x" / "17.avi", frames_of((1, 2, 3), 4, 0))
    (tmp_path / "l.jsonl").write_text(json.dumps({"nr": 17, "wie": "ein Ball rollt", "aus": 3}))
    fields = {"id": "nr", "sentences": "wie", "group": "aus"}
    clip = read_captions(tmp_path / "l.jsonl", fields=fields).clips[0]
    assert (clip.id, clip.sentences, clip.group) == ("17", ("ein Ball rollt",), "3")
    with pytest.raises(DataError, match="no field 'sentence'.*did you mean"):
        read_captions(tmp_path / "l.jsonl", fields={"sentence": "wie"})


def hostile(root):
    """A list in which every second row has something that is not as it should be."""
    good = captioned(root, 12)
    lines = good.read_text(encoding="utf-8").splitlines()
    write_clip(root / "videos" / "one frame.avi", frames_of((1, 2, 3), 1, 0))
    (root / "videos" / "empty.mp4").write_bytes(b"")
    (root / "videos" / "text.mp4").write_bytes(b"this is no video" * 100)
    whole = (root / "videos" / "video0.avi").read_bytes()
    (root / "videos" / "cut.avi").write_bytes(whole[: len(whole) // 3])
    rows = [
        {"clip": "one frame", "captions": ["a single picture"], "source_id": "odd 1"},
        {"clip": "empty", "captions": ["nothing in it"], "source_id": 7},
        {"clip": "text", "captions": ["words"], "source_id": 8.5},
        {"clip": "cut", "captions": ["a part of it"], "source_id": ""},
        {"clip": "absent", "captions": ["not there"], "source_id": None},
        {"clip": "video0", "captions": ["!!!", "", None, 5, ["a"], "Thing  NUMBER 0 moves."], "source_id": "src0"},
        {"clip": "video1", "captions": ["Ein Größenvergleich: 大きい猫 🐈", "\ud83d alone"], "source_id": "src0"},
        {"clip": "video2", "captions": "thing number 9 moves", "source_id": "src1"},
        {"clip": True, "captions": ["no id"]},
        {"captions": ["no id either"]},
        {"clip": "x" * 600, "captions": ["a long id"]},
        {"clip": "..\\..\\video3", "captions": ["a path of another system"], "source_id": "src1"},
        {"clip": "videos/video4.avi\u0000", "captions": ["a null"]},
        ["no", "object"],
    ]
    lines += [json.dumps(r) for r in rows]
    lines += ["{not json", "", '{"clip": "half', "[" * 5000]
    good.write_bytes("\n".join(lines).encode() + b"\n\xff\xfe broken bytes\n")
    return good


def test_a_hostile_list_is_counted_row_by_row_and_composed(tmp_path):
    file = hostile(tmp_path)
    options = ComposeOptions(Layout("sequence", clips=(2, 2)), {"train": 6, "val": 2, "test": 2}, text="hashed-words")
    reading = ClipOptions(val_share=0.4, test_share=0.4)
    store, report = compose(file, tmp_path / "s", options, clips=reading, encode=SMALL, progress=False)
    told = kinds(report)
    assert told["a clip's file is missing"] == 1
    assert told["an id is longer than 510 characters"] == 1
    # Two odd paths lead to files of other rows.
    assert told["a clip is there twice (same file); one is used"] == 1
    assert told["two ids name one file; it is one clip with the captions of both"] == 1
    assert told["a clip cannot be decoded"] >= 2
    assert told["a caption has no word"] == 2
    assert told["a caption is not text"] == 3
    assert told["a caption is given twice for one clip"] == 1
    assert told["a caption stands at several clips"] == 1
    assert told["a row names no clip"] == 2
    assert told["a row is not an object"] == 1
    assert told["a line cannot be read as JSON"] == 4  # one of them holds half a character
    assert told["a line is not UTF-8"] == 1
    assert len(store.videos) == 10
    stored = json.loads((tmp_path / "s" / "manifest.json").read_text(encoding="utf-8"))
    assert stored["extra"]["report"]["dropped"] == report.count("dropped")


def test_a_caption_of_several_clips_stays_in_one_part(tmp_path):
    file = captioned(tmp_path, 20)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        row["captions"].append("a square  MOVES!" if int(row["clip"][5:]) % 2 else "A square moves")
        number = int(row["clip"][5:])
        row["split"] = "train" if number < 10 else "validation" if number < 14 else "testing"
    file.write_text("\n".join(json.dumps(r) for r in rows))
    layout = Layout("sequence", clips=(3, 3), sentences=5)
    options = ComposeOptions(layout, {"train": 9, "val": 3, "test": 9}, text="hashed-words")
    store, report = compose(file, tmp_path / "s", options, encode=SMALL, progress=False)
    told = kinds(report)
    assert told["a sentence of the train part stands in the test part as well and is left to that one"] == 10
    assert told["a sentence of the val part stands in the test part as well and is left to that one"] == 4
    shared = [q for q in store.queries if "square moves" in q.text.lower() or "square  moves" in q.text.lower()]
    assert {q.split for q in shared} == {"test"}
    # All clips of these videos have the caption: the whole video is its truth.
    durations = {v.id: v.duration for v in store.videos}
    assert all(q.windows == ((0.0, durations[q.video]),) for q in shared)


def test_two_files_whose_names_tell_the_part(tmp_path):
    file = captioned(tmp_path, 8)
    lines = file.read_text().splitlines()
    file.unlink()
    (tmp_path / "my_train.jsonl").write_text("\n".join(lines[:6]))
    (tmp_path / "my_test.jsonl").write_text("\n".join(lines[6:]))
    found, store, _ = open_clips(tmp_path, ClipOptions())
    assert store is None
    assert {c.id: c.part for c in found.clips}["video0"] == "train"
    assert {c.id: c.part for c in found.clips}["video7"] == "test"


def test_boxes_in_pixels_become_corners_of_the_picture(tmp_path):
    file = captioned(tmp_path, 1, width=64, height=64, fps=10, frames=8, boxes=[[16, 0, 32, 64]] * 7 + [None])
    clip = read_captions(file).clips[0]
    np.testing.assert_allclose(clip.boxes[0], [0.25, 0.0, 0.5, 1.0])
    assert np.isnan(clip.boxes[7]).all()
    assert clip.duration == pytest.approx(0.8)


def test_describe_says_what_can_be_composed_and_how(tmp_path):
    ucf = class_folders(tmp_path / "ucf", groups=2)
    told = describe(ucf)
    assert (told["what"], told["clips"], told["classes"], told["groups"]) == ("class folders", 12, 6, 12)
    assert told["command"] == f"strong-envs compose {ucf} --layout sequence --clips-per-stream 6 --out STORE"
    file = captioned(tmp_path / "own", 10)
    assert describe(file)["captions"] == 20
    assert describe(tmp_path / "own")["what"] == "clips with captions"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("nothing")
    assert describe(tmp_path / "other") is None
    # A folder of long videos is no set of clips by class.
    write_clip(tmp_path / "long" / "videos" / "v1.avi", frames_of((1, 2, 3), 4, 0))
    assert describe(tmp_path / "long") is None
    assert describe(tmp_path / "nowhere") is None


def test_the_real_clips_of_jhmdb_are_read_with_boxes_groups_and_parts(shared_data):
    folder = shared_data / "jhmdb"
    if not folder.is_dir():
        pytest.skip("the clips of JHMDB are absent")
    found, store, wording = open_clips(folder, ClipOptions(split=2))
    assert store is None
    assert len(found.clips) == 928
    assert len({c.label for c in found.clips}) == 21
    assert wording is not None
    assert set(wording["golf"]) == {"train", "test"}
    assert all(c.boxes is not None and len(c.boxes) >= 15 for c in found.clips)
    groups = {part: {c.group for c in found.clips if c.part == part} for part in ("train", "test")}
    assert groups["train"]
    assert groups["test"]
    assert not groups["train"] & groups["test"]


def test_check_says_what_clips_are_there_and_the_command_that_composes_them(tmp_path, capsys):
    folder = class_folders(tmp_path / "ucf", groups=2)
    assert main(["check", str(folder)]) == 0
    told = capsys.readouterr().out
    assert "trimmed clips, class folders" in told
    assert f"strong-envs compose {folder} --layout sequence" in told
    file = captioned(tmp_path / "own", 10)
    (tmp_path / "own" / "videos" / "video3.avi").unlink()
    assert main(["check", str(file)]) == 1
    told = capsys.readouterr().out
    assert "captions: 18" in told
    assert "1 dropped  a clip's file is missing" in told


def test_every_kind_of_finding_has_advice(tmp_path):
    options = ComposeOptions(Layout("sequence", clips=(2, 2)), {"train": 6, "val": 2, "test": 2}, text="hashed-words")
    reading = ClipOptions(val_share=0.4, test_share=0.4)
    _, report = compose(hostile(tmp_path), tmp_path / "s", options, clips=reading, encode=SMALL, progress=False)
    assert len(report.findings) > 10
    for kind, _ in report.findings:
        assert advice(kind) != "Look at the examples.", kind
