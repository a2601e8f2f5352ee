"""Reference rows name the videos and sentences that their two splits share."""

from __future__ import annotations

import json

import pytest

from strong_envs.benchmarks.cli import main


@pytest.mark.parametrize("shared", [True, False])
def test_shared_videos_and_sentences_are_named(shared, tmp_path, capsys):
    rows = []
    for k in range(8):
        split = "test" if k % 2 else "train"
        video = f"v{k // 2 if shared else k}"
        sentence = f"person number {k // 2 if shared else k} sits"
        row = {
            "qid": k,
            "query": sentence,
            "duration": 30,
            "vid": video,
            "relevant_windows": [[k, k + 9]],
            "split": split,
        }
        rows.append(json.dumps(row))
    (tmp_path / "all.jsonl").write_text("\n".join(rows))
    assert main(["references", str(tmp_path), "--draws", "2"]) == 0
    out = capsys.readouterr().out
    assert ("a video of train is in test as well: 4, for example v0" in out) == shared
    assert ("a sentence of train is in test as well: 4" in out) == shared
    assert (f"strong-envs check {tmp_path}" in out) == shared
    assert main(["references", str(tmp_path), "--draws", "2", "--json"]) == 0
    leaks = json.loads(capsys.readouterr().out)["leaks"]
    assert {found["count"] for found in leaks} == ({4} if shared else set())
