"""Protocols, and the tables that refuse to mix them."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest

from strong_envs.benchmarks.protocols import Protocol, content_hashes, differences, same_column
from strong_envs.benchmarks.results.tables import ABSENT, format_number, markdown_table, print_table, table_cells
from strong_envs.features import Annotations, DataError, Query, Report, Video

MAIN = Protocol("main", "Charades-STA", hashes={"train": "ab" * 32, "test": "cd" * 32})
PAPER = Protocol("STRONG, Table 1", "Charades-STA", train="random 80 %", test="random 20 %", window="cut", iou="legacy")


def row(system: str, protocol: Protocol = MAIN, **metrics: float) -> dict:
    return {"system": system, "protocol": protocol.as_dict(), "seeds": 5, "metrics": metrics or {"mIoU": 0.3047}}


def test_json_round_trip():
    again = Protocol.from_json(MAIN.to_json())
    assert again == MAIN and hash(again) == hash(MAIN)
    assert json.loads(MAIN.to_json())["thresholds"] == [0.1, 0.3, 0.5, 0.7, 0.9]
    with pytest.raises(dataclasses.FrozenInstanceError):
        MAIN.iou = "legacy"


def test_protocols_that_differ_in_the_name_only_share_a_column():
    same_column(MAIN, dataclasses.replace(MAIN, name="another name"))


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Protocol) if f.name != "name"])
def test_any_other_difference_is_refused_and_named(field):
    values = {"iou": "signed", "comparison": ">", "thresholds": (0.5,), "steps": 10, "z_e": 5, "hashes": {"test": "ff"}}
    values |= {"step_scale": 2.0, "multi_scale": True, "invalid": "terminate", "initial_span": (0.0, 1.0)}
    other = dataclasses.replace(MAIN, **{field: values.get(field, "other")})
    assert list(differences(MAIN, other)) == [field]
    with pytest.raises(DataError, match=f"cannot share a column, they differ in {field}"):
        same_column(MAIN, other)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"iou": "clampd"}, "did you mean 'clamped'"),
        ({"comparison": "≥"}, "comparison"),
        ({"thresholds": (50,)}, "thresholds"),
        ({"test": ""}, "test is a name"),
        ({"multi_scale": "yes"}, "multi_scale is true or false"),
        ({"invalid": "refused"}, "did you mean 'refuse'"),
    ],
)
def test_a_protocol_is_checked(values, says):
    with pytest.raises(DataError, match=says):
        dataclasses.replace(MAIN, **values)


def test_a_protocol_file_of_another_kind_is_refused():
    with pytest.raises(DataError, match="unknown fields.*'stride'.*missing.*'name'"):
        Protocol.from_json('{"stride": 3}')
    with pytest.raises(DataError, match="the protocol is not valid JSON"):
        Protocol.from_json("{")
    with pytest.raises(DataError, match="named fields"):
        Protocol.from_json("[]")
    with pytest.raises(DataError, match="wrong type"):
        Protocol.from_dict({**MAIN.as_dict(), "thresholds": None})


def test_a_hash_tells_two_annotations_apart():
    def annotations(end: float, duration: float = 10.0) -> Annotations:
        queries = [Query("q", "v", "a cat", ((0.0, end),), "test")]
        return Annotations("x", {"v": Video("v", duration)}, queries, Report("x"))

    assert content_hashes(annotations(3.0), "test") == content_hashes(annotations(3.0), "test")
    hashes = {content_hashes(a, "test")["test"] for a in (annotations(3.0), annotations(3.1), annotations(3.0, 11.0))}
    assert len(hashes) == 3


def test_a_store_is_known_by_its_own_hash(ragged_store):
    from strong_envs.features import FeatureStore

    store = FeatureStore.open(ragged_store)
    assert content_hashes(store, "train", "test") == {store.name: store.content_hash}


def test_markdown_shows_percent_with_two_decimals_and_the_protocol():
    rows = [row("a|b", mIoU=0.30474, steps=12.345), row("c", mIoU=1.0)]
    rows[0]["intervals"] = {"mIoU": [0.29, 0.31]}
    text = markdown_table(rows)
    assert text.splitlines()[:4] == [
        "| system | seeds | mIoU | steps |",
        "| --- | ---: | ---: | ---: |",
        "| a\\|b | 5 | 30.47 ± 1.00 | 12.3 |",
        f"| c | 5 | 100.00 | {ABSENT} |",
    ]
    assert str(MAIN) in text and "95 %" in text
    assert "±" not in markdown_table(rows, ["mIoU"], intervals=False)


def test_a_table_refuses_two_protocols_in_one_column():
    with pytest.raises(DataError, match="cannot share a column.*iou"):
        markdown_table([row("a"), row("b", PAPER)])
    with pytest.raises(DataError, match="no protocol"):
        markdown_table([{"system": "a", "metrics": {"mIoU": 0.5}}])
    with pytest.raises(DataError, match="two rows"):
        markdown_table([row("a"), row("a")])
    with pytest.raises(DataError, match="at least one row"):
        markdown_table([])


def test_numbers_of_another_protocol_stand_in_marked_columns():
    laid = table_cells(
        [row("STRONG"), row("mine")], beside={"paper": [row("STRONG", PAPER, mIoU=0.4), row("old", PAPER)]}
    )
    assert laid.header == ["system", "seeds", "mIoU", "mIoU (paper)"]
    assert laid.body == [
        ["STRONG", "5", "30.47", "40.00"],
        ["mine", "5", "30.47", ABSENT],
        ["old", ABSENT, ABSENT, "30.47"],
    ]
    assert any(note.startswith("paper: STRONG, Table 1") and "legacy" in note for note in laid.notes)


def test_caveats_are_printed_once_with_the_systems_they_concern():
    rows = [{**row(s), "caveat": "1 seed: careful."} for s in "ab"] + [row("c")]
    assert "a, b: 1 seed: careful." in table_cells(rows).notes
    assert "every system: 1 seed: careful." in table_cells(rows[:2]).notes


def test_a_narrow_terminal_gets_the_numbers_without_intervals():
    from rich.console import Console

    names = ["mIoU", "Acc@.1", "Acc@.3", "Acc@.5", "Acc@.7", "Acc@.9"]
    one = row("query only (kNN)", **dict.fromkeys(names, 0.3))
    one["intervals"] = {name: [0.2, 0.4] for name in names}
    for width, shown in ((160, True), (80, False)):
        out = io.StringIO()
        print_table([one], title="x", console=Console(file=out, width=width))
        assert ("±" in out.getvalue()) == shown
        assert "query only (kNN)" in out.getvalue() and "Acc@.9" in out.getvalue()
    out = io.StringIO()
    print_table([one], title="x", console=Console(file=out, width=60))
    assert "30.00" in out.getvalue() and "columns left out (narrow terminal): Acc@.1, Acc@.9" in out.getvalue()


def test_numbers():
    assert format_number("Acc@.5", 0.12345) == "12.35"
    assert format_number("mIoU", None) == ABSENT
    assert format_number("seconds", 0.01234, [0.01, 0.02]) == "0.0123 ± 0.005"
