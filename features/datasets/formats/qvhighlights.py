"""QVHighlights (Lei et al. 2021) and every data set in its JSON-lines format, which lighthouse made the common one."""

from __future__ import annotations

from strong_envs.features.datasets.collect import Collector
from strong_envs.features.datasets.format import annotation_format
from strong_envs.features.datasets.parsing import (
    PathOrPaths,
    id_problem,
    list_files,
    number,
    parse_json,
    read_lines,
    show,
)
from strong_envs.features.datasets.sniff import sniff_file
from strong_envs.features.datasets.types import Annotations
from strong_envs.features.errors import DataError

SPLITS = ("train", "val", "test")
FIELDS = ("qid", "query", "duration", "vid", "relevant_windows", "split")


@annotation_format(
    "qvhighlights",
    keys={"query", "vid"},
    rank=-3,
    advice={"a qid is neither": "Use an integer or printable text as qid."},
)
def read_qvhighlights(path: PathOrPaths, *, split: str | None = None, name: str = "QVHighlights format") -> Annotations:
    """Read lines ``{"qid", "query", "duration", "vid", "relevant_windows": [[start, end], ...]}``, in seconds.

    ``qid`` may be an integer or text and comes back as text. A query may have several windows. A field ``split``
    goes before the file's name; every other field (``event``, ``saliency_scores``, ...) is kept in ``extra``.
    The public test file of QVHighlights has no windows, so all of its rows are counted as dropped.

    Args:
        path: a folder with jsonl files, one file, or several.
        split: name of the split for rows without the field; None takes it from each file's name.
        name: what to call the data set, since many share the format.

    Raises:
        DataError: files that cannot be read, or nothing usable.
    """
    files = list_files(path, lambda p: sniff_file(p) == "qvhighlights", "jsonl with query and vid fields")
    out = Collector(name, path)
    for file in files:
        file_split: str | None = None
        for where, line in read_lines(file, out.report):
            try:
                row = parse_json(line, out.report, where)
            except DataError as error:
                out.drop("a line is not valid JSON", str(error))
                continue
            if not isinstance(row, dict):
                out.drop("a line is not a JSON object", f"{where}: {show(row)}")
                continue
            row_split = row.get("split")
            if not isinstance(row_split, str) or not row_split:
                file_split = file_split or out.split(file, split)
                row_split = file_split
            elif id_problem(row_split):
                out.drop("a split's name cannot be printed", f"{where}: {show(row_split)}")
                continue
            elif row_split not in SPLITS:
                kind = "a split is named neither train, val nor test"
                out.report.add(kind, "doubtful", f"{where}: {show(row_split)}")
            _add(out, row, row_split, where)
    return out.finish()


def _add(out: Collector, row: dict, split: str, where: str) -> None:
    qid, windows = row.get("qid"), row.get("relevant_windows")
    if not (type(qid) is int and number(qid) is not None) and id_problem(qid):
        out.drop("a qid is neither an integer nor printable text", f"{where}: {show(qid)}")
        return
    if not isinstance(windows, list):
        out.drop("a query has no window", f"{where}: relevant_windows {show(windows)}")
        return
    video = out.video(row.get("vid"), row.get("duration"), where)
    if video is not None:
        extra = {k: v for k, v in row.items() if k not in FIELDS}
        out.query(qid, video, row.get("query"), windows, split, where, extra)
