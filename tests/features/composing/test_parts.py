"""Parts are made of whole groups; one clip, group or sentence in two parts is refused, and the rows are named."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace

import pytest
from drawn_clips import captioned, class_folders

from strong_envs.benchmarks.cli import main
from strong_envs.features.composing.clips import Clip, ClipSet, about_label, sentence_key
from strong_envs.features.composing.parts import assign_parts, find_leaks, one_part_a_sentence
from strong_envs.features.composing.sentences import TEMPLATES, plain_name, read_sentences, word_classes
from strong_envs.features.datasets.types import Report
from strong_envs.features.errors import DataError
from strong_envs.features.store.store import FeatureStore

FAST = ["--backbone", "colour-cells", "--text", "hashed-words", "--fps", "5", "--clips-per-stream", "2"]


def made_up(parts: dict[str, str | None] | None = None, groups: int = 8, classes: int = 3) -> ClipSet:
    """Two clips a group and class."""
    clips = []
    for k in range(classes):
        for g in range(groups):
            for c in range(2):
                name = f"c{k}/g{g}/{c}"
                part = (parts or {}).get(f"g{g}")
                about = about_label(f"c{k}")
                clips.append(Clip(name, f"c{k}/g{g}", f"c{k}", about, (), part, None, shows=frozenset({about})))
    return ClipSet("made up", "class folders", None, clips, Report("made up"))


def test_parts_are_carved_by_group_in_every_class_the_same_way_in_any_order():
    found = made_up()
    assign_parts(found, seed=3)
    part = {c.group: c.part for c in found.clips}
    assert all(part[c.group] == c.part for c in found.clips)
    for label in ("c0", "c1", "c2"):
        count = Counter(p for g, p in part.items() if g.startswith(label))
        assert count == {"test": 2, "val": 1, "train": 5}
    other = made_up()
    other.clips.reverse()
    assign_parts(other, seed=3)
    assert {c.group: c.part for c in other.clips} == part
    assign_parts(other := made_up(), seed=4)
    assert {c.group: c.part for c in other.clips} != part


def test_validation_is_carved_from_training_groups_of_given_parts():
    given = {f"g{g}": "test" if g > 5 else "train" for g in range(8)}
    found = made_up(given)
    assign_parts(found)
    assert {c.group for c in found.clips if c.part == "test"} == {f"c{k}/g{g}" for k in range(3) for g in (6, 7)}
    carved = {c.group for c in found.clips if c.part == "val"}
    assert len(carved) == 3
    assert not carved & {c.group for c in found.clips if c.part != "val"}


def test_a_validation_part_without_a_test_part_is_tested_on():
    found = made_up({f"g{g}": "val" if g > 5 else "train" for g in range(8)})
    assign_parts(found)
    assert {c.group for c in found.clips if c.part == "test"} == {f"c{k}/g{g}" for k in range(3) for g in (6, 7)}
    assert found.report.count("doubtful") == 1


def test_too_few_groups_and_odd_shares_are_one_sentence():
    with pytest.raises(DataError, match="part of made up has no clip"):
        assign_parts(made_up(groups=1, classes=1))
    with pytest.raises(DataError, match="val_share must lie between 0 and 1"):
        assign_parts(made_up(), val_share=1.5)


def test_classes_have_another_wording_in_every_part():
    found = made_up({f"g{g}": ("train", "val", "test")[g % 3] for g in range(8)})
    word_classes(found, {"c0": {"train": ("one zero",), "test": ("another zero",)}})
    said = {(c.label, c.part): c.sentences for c in found.clips}
    assert said["c0", "train"] == ("one zero",)
    assert said["c0", "val"] == tuple(t.format("c0") for t in TEMPLATES["val"])
    assert said["c1", "test"] == tuple(t.format("c1") for t in TEMPLATES["test"])
    keys = Counter(sentence_key(t) for texts in said.values() for t in texts)
    assert max(keys.values()) == 1
    assert (plain_name("ApplyEyeMakeup"), plain_name("brush_hair")) == ("apply eye makeup", "brush hair")


def test_a_sentence_of_two_parts_is_left_to_the_later_one():
    found = made_up({f"g{g}": ("train", "val", "test")[g % 3] for g in range(8)})
    found.clips = [replace(c, about=None, sentences=("Same for all.", f"own of {c.id}")) for c in found.clips]
    one_part_a_sentence(found)
    assert {c.part for c in found.clips if "Same for all." in c.sentences} == {"test"}
    assert all(any(t.startswith("own") for t in c.sentences) for c in found.clips)


def compose_command(clips, out, *options: str) -> int:
    return main(["compose", str(clips), "--out", str(out), "--videos", "4", "2", "2", *FAST, *options])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return class_folders(tmp_path_factory.mktemp("ucf"), groups=4)


def test_one_clip_in_two_parts_is_refused_and_named(folder, tmp_path, capsys):
    lists = tmp_path / "lists"
    lists.mkdir()
    names = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*.avi"))]
    (lists / "trainlist01.txt").write_text("\n".join(f"{n} 1" for n in names if "g04" not in n))
    (lists / "testlist01.txt").write_text("\n".join(n for n in names if "g04" in n) + f"\n{names[0]}\n")
    assert compose_command(folder, tmp_path / "s", "--split-files", str(lists)) == 2
    told = capsys.readouterr().err
    assert "put into two parts" in told
    assert "Archery/v_Archery_g01_c01" in told
    assert "trainlist01.txt:1" in told
    assert "testlist01.txt:7" in told
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("name", ["v_Archery_g01_c01", "another_name"])
def test_one_clip_copied_into_two_part_folders_is_refused_and_named(tmp_path, capsys, name):
    class_folders(tmp_path / "k" / "train", groups=3)
    class_folders(tmp_path / "k" / "test", groups=6)
    for g in (1, 2, 3):
        for path in (tmp_path / "k" / "test").rglob(f"*_g{g:02d}_*"):
            path.unlink()
    source = tmp_path / "k" / "train" / "Archery" / "v_Archery_g01_c01.avi"
    shutil.copy(source, tmp_path / "k" / "test" / "Archery" / f"{name}.avi")
    assert compose_command(tmp_path / "k", tmp_path / "s") == 2
    told = capsys.readouterr().err
    assert "put into two parts" in told
    assert f"{name}'" in told
    assert compose_command(tmp_path / "k", tmp_path / "s", "--conflicts", "drop") == 0
    store = FeatureStore.open(tmp_path / "s")
    assert not find_leaks(store.videos, store.queries)


def test_one_group_in_two_parts_is_refused_and_named_or_dropped_from_training(tmp_path, capsys):
    file = captioned(tmp_path, 24)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for i, row in enumerate(rows):
        row["split"] = "test" if i >= 15 else "train"  # clips 14 and 15 are of one source
    file.write_text("\n".join(json.dumps(r) for r in rows))
    assert compose_command(file, tmp_path / "s") == 2
    told = capsys.readouterr().err
    assert "group 'src7'" in told
    assert "video14 in train" in told
    assert "video15 in test" in told
    assert compose_command(file, tmp_path / "s", "--conflicts", "drop") == 0
    assert "its group is in another part" in capsys.readouterr().out
    store = FeatureStore.open(tmp_path / "s")
    assert {q.split for q in store.queries if q.extra["group"] == "src7"} <= {"test"}


def test_one_sentence_in_two_parts_is_refused_and_named(folder, tmp_path, capsys):
    file = tmp_path / "words.json"
    file.write_text(json.dumps({"Archery": {"train": ["a bow is drawn"], "test": ["A bow is drawn!"]}}))
    assert compose_command(folder, tmp_path / "s", "--sentences", str(file)) == 2
    told = capsys.readouterr().err
    assert "'A bow is drawn!' stands at Archery train and at Archery test" in told
    file.write_text(json.dumps({"Archery": {"train": ["move"]}, "Fencing": {"train": ["move"]}}))
    with pytest.raises(DataError, match="two places"):
        read_sentences(file)
    for wrong in ([], {}, {"Archery": ["x"]}, {"Archery": {"tran": ["x"]}}, {"Archery": {"train": ["!"]}}):
        file.write_text(json.dumps(wrong))
        with pytest.raises(DataError):
            read_sentences(file)


def test_the_check_of_a_finished_store_names_what_leaks(folder, tmp_path, capsys):
    assert compose_command(folder, tmp_path / "s", "--videos", "20", "2", "2") == 0
    store = FeatureStore.open(tmp_path / "s")
    assert find_leaks(store.videos, store.queries) == []
    video = store.queries[0].video
    moved = [replace(q, split="test") if q.video == video else q for q in store.queries]
    lines = find_leaks(store.videos, moved)
    clip = store.queries[0].extra["clip"]
    assert any(line.startswith(f"clip {clip!r} is in two parts: ") for line in lines)
    assert any(line.startswith(f"group {store.queries[0].extra['group']!r}") for line in lines)
    assert any(line.startswith("sentence ") for line in lines)
    # `check` finds it in a store on disk, too.
    assert main(["check", str(tmp_path / "s")]) == 0
    file = tmp_path / "s" / "manifest.json"
    manifest = json.loads(file.read_text())
    for query in manifest["queries"]:
        if query["video"] == video:
            query["split"] = "test"
    file.write_text(json.dumps(manifest))
    capsys.readouterr()
    assert main(["check", str(tmp_path / "s")]) == 2
    assert f"clip {clip!r} is in two parts" in capsys.readouterr().out
