"""``strong-envs document``: tables, numbers and figures of README.md and docs/, written from result files.

The command replaces what stands between two comments of a Markdown file, and nothing else::

    <!-- table docs/results/run.json metrics=mIoU,Acc@.5 -->
    <!-- end -->

    <!-- table docs/results/run.json metrics=mIoU,params beside=easy:docs/results/easy.json beside_metrics=mIoU -->
    <!-- end -->

    held-out mIoU <!-- number docs/results/run.json system=strong metric=mIoU -->34.10 ± 1.20<!-- end -->

    <!-- figure docs/results/run.json kind=curves file=docs/figures/curves.svg -->
    <!-- end -->

The paper's numbers stand beside those of ``table1`` and ``table2`` unless ``beside`` names other files, or ``none``.
``--check`` writes nothing and fails where a document and its result files differ; a test does the same. Figures are
``.svg`` files that end with a digest of the result file they were drawn from, so that another release of the drawing
library makes no difference.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from strong_envs.benchmarks.metrics.curves import quality_markdown
from strong_envs.benchmarks.results import figures
from strong_envs.benchmarks.results.files import read_result, read_tree
from strong_envs.benchmarks.results.tables import format_number, markdown_table
from strong_envs.features.errors import DataError, nearest
from strong_envs.features.files.atomic import write_text
from strong_envs.features.files.errors import check_output, os_errors, shown
from strong_envs.features.files.untrusted_json import read_text

BLOCK = re.compile(r"<!-- (?P<kind>[a-z]+) (?P<words>\S+\.json[^>]*?) -->(?P<body>.*?)<!-- end -->", re.S)
DRAWN = re.compile(r"<!-- drawn from [0-9a-f]{64} -->")
OPENING = re.compile(r"<!-- [a-z]+ \S+\.json[^>]*? -->")
NOTHING = "none"
PROVENANCE = ("command", "date", "machine", "versions", "commit", "seeds")

Figure = Callable[[Mapping[str, Any], Path], None]
FIGURES: dict[str, Figure] = {
    "curves": lambda result, path: figures.learning_curves(result, path),
    "iterations": lambda result, path: figures.learning_curves(result, path, "stage"),
    "seconds": lambda result, path: figures.learning_curves(figures.with_traces(result), path),
    "share": lambda result, path: figures.learning_curves(figures.with_traces(result), path, "share"),
    "table": lambda result, path: figures.table_figure(result["rows"], path),
    "profiles": lambda result, path: figures.performance_profiles(result["per_query"], path),
    "length": lambda result, path: figures.breakdown(result["per_query"], "length", path),
    "position": lambda result, path: figures.breakdown(result["per_query"], "position", path),
    "sweep": lambda result, path: figures.sweep(result, path),
}


def documents(root: Path) -> list[Path]:
    """README.md and every Markdown file of docs/ that exist."""
    return [file for file in (root / "README.md", *sorted((root / "docs").rglob("*.md"))) if file.is_file()]


def update(file: Path, root: Path, write: bool) -> list[str]:
    """Update one document, or only compare it; returns a sentence for each place that differed.

    Args:
        file: the document.
        root: what paths in its markers are relative to.
        write: False changes nothing.

    Raises:
        DataError: an unknown or unclosed marker, or a result file that cannot be used.
    """
    text = read_text(file)
    if len(OPENING.findall(text)) != len(BLOCK.findall(text)):
        raise DataError(f"{file}: a marker has no <!-- end --> of its own")
    found: list[str] = []

    def replace(match: re.Match) -> str:
        where = f"{file.name}, <!-- {match['kind']} {match['words']} -->"
        try:
            path, *words = shlex.split(match["words"])
        except ValueError as error:
            raise DataError(f"{where}: {error}") from None
        options = dict(word.partition("=")[::2] for word in words)
        try:
            body = block(match["kind"], path, options, file, root, found if write else None)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        if match["kind"] == "figure" and not drawn(path, options, root):
            found.append(f"{where}: {options['file']} was not drawn from this result")
        if body != match["body"]:
            found.append(f"{where} differs from its result file")
        return match[0].replace(f"-->{match['body']}<!-- end -->", f"-->{body}<!-- end -->")

    changed = BLOCK.sub(replace, text)
    if write and changed != text:
        write_text(file, changed)
    return found


def block(
    kind: str, path: str, options: Mapping[str, str], file: Path, root: Path, drawing: list[str] | None = None
) -> str:
    """The text between the comments of one marker. A figure is drawn where ``drawing`` is a list to report to."""
    if kind == "looks":
        from strong_envs.benchmarks.looks.result import markdown

        _known(options, ())
        return f"\n{markdown(read_tree(root / path))}"
    result = checked_result(root / path)
    if kind == "table":
        _known(options, ("metrics", "systems", "notes", "sort", "beside", "beside_metrics"))
        return f"\n{_table(result, options, root)}"
    if kind == "claims":
        from strong_envs.benchmarks.commands.paper_tables import claims_markdown, judge

        _known(options, ())
        if "claims" not in result:
            raise DataError("claims are those of table1 and table2")
        # Judged anew where the file has the scores of queries: the rule may have become stricter since.
        anew = result.get("table") and result.get("per_query", {}).get("queries")
        return f"\n{claims_markdown(judge(result, result['table']) if anew else result['claims'])}"
    if kind == "quality":
        _known(options, ())
        return f"\n{quality_markdown(result.get('traces') or result['curves'])}"
    if kind == "walk":
        from strong_envs.benchmarks.commands.walk import walk_markdown

        _known(options, ())
        return f"\n{walk_markdown(result)}"
    if kind == "about":
        _known(options, ())
        return f"\n{provenance(result)}\n"
    if kind == "number":
        _known(options, ("system", "metric", "interval"))
        return _number(result, options)
    if kind == "figure":
        _known(options, ("kind", "file", "alt"))
        if drawing is not None and not drawn(path, options, root):
            draw(result, path, options, root)
            drawing.append(f"{options['file']} drawn")
        link = os.path.relpath(root / options["file"], file.parent)
        return f"\n![{options.get('alt') or options['kind']}]({link})\n"
    kinds = ("table", "number", "figure", "claims", "walk", "looks", "about")
    raise DataError(f"a marker is one of {kinds}, got {kind!r}{nearest(kind, kinds)}")


def checked_result(path: Path) -> dict[str, Any]:
    """A result file that says where it comes from; `DataError` names what is missing."""
    result = read_result(path, ("about",))
    missing = [name for name in PROVENANCE if name not in result["about"]]
    if missing:
        raise DataError(f"{path.name} does not say its {', '.join(missing)}; compute it again")
    return result


def provenance(result: Mapping[str, Any]) -> str:
    """One line: command, commit, machine, versions, date."""
    about = result["about"]
    machine, versions = about["machine"], ", ".join(f"{k} {v}" for k, v in about["versions"].items())
    device = f", {machine['accelerator']}" if "accelerator" in machine else ""
    return (
        f"`{about['command']}` at commit {str(about['commit'])[:12]}, {about['date']}, {len(about['seeds'])} seeds; "
        f"{machine['processor']}, {machine['cores']} cores{device}; {versions}."
    )


def draw(result: Mapping[str, Any], path: str, options: Mapping[str, str], root: Path) -> None:
    """Draw a figure and write what it was drawn from at its end."""
    target = root / options["file"]
    check_output(target, "file", "the figure")
    if target.is_symlink() or (target.exists() and not DRAWN.search(_end(target))):
        raise DataError(f"{options['file']} exists and was not drawn from a result file; choose another file=")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figure.svg"
        FIGURES[options["kind"]](result, file)
        text = file.read_text(encoding="utf-8")
    write_text(target, f"{text.rstrip()}\n<!-- {digest(path, options, root)} -->\n")


def drawn(path: str, options: Mapping[str, str], root: Path) -> bool:
    """Whether the figure's file was drawn from this result file as it stands."""
    if options.get("kind") not in FIGURES:
        raise DataError(f"a figure has kind=, one of {sorted(FIGURES)}; got {options.get('kind')!r}")
    if not options.get("file", "").endswith(".svg"):
        raise DataError(f"a figure has file=, a path that ends in .svg; got {options.get('file')!r}")
    target = root / options["file"]
    if not target.resolve().is_relative_to(root.resolve()):
        raise DataError(f"a figure has file=, a path below {shown(root)}; got {options['file']!r}")
    return target.is_file() and digest(path, options, root) in _end(target)


def _end(file: Path) -> str:
    """The last 200 bytes of a file, where a figure names what it was drawn from."""
    with os_errors(f"read {shown(file)}"), open(file, "rb") as handle:
        handle.seek(max(file.stat().st_size - 200, 0))
        return handle.read().decode("utf-8", "replace")


def digest(path: str, options: Mapping[str, str], root: Path) -> str:
    """Names the content of a result file and the kind of figure drawn from it."""
    content = hashlib.sha256((root / path).read_bytes())
    content.update(options["kind"].encode())
    return f"drawn from {content.hexdigest()}"


def _table(result: Mapping[str, Any], options: Mapping[str, str], root: Path) -> str:
    if "points" in result:
        rows = [{**point, "system": point["label"]} for point in result["points"]]
        # A setting that is part of the protocol makes every value a column of its own, or the table would refuse.
        groups: dict[str, list[dict]] = {}
        for row in rows:
            groups.setdefault(json.dumps(row["protocol"], sort_keys=True), []).append(row)
        return "\n".join(_rows(group, options, {}) for group in groups.values())
    extra: dict[str, Any] = {}
    if "beside" in options:
        extra["beside"] = {} if options["beside"] == NOTHING else _beside(result, options, root)
    elif "paper" in result:
        from strong_envs.benchmarks.commands.paper_tables import columns

        extra = columns(result)
    return _rows(result["rows"], options, extra)


def _beside(result: Mapping[str, Any], options: Mapping[str, str], root: Path) -> dict[str, list[dict]]:
    """Rows of other result files, ``label:path`` each, of the systems that the first has: columns of their own."""
    ours = {row["system"] for row in result["rows"]}
    wanted = _words(options.get("beside_metrics", "mIoU"))
    found = {}
    for word in _words(options["beside"]):
        label, colon, path = word.partition(":")
        if not (label and colon and path):
            raise DataError(f"beside= is label:path of other results, such as easy:docs/easy.json; got {word!r}")
        rows = [row for row in checked_result(root / path)["rows"] if row["system"] in ours]
        _has_metrics(rows, wanted)
        found[label] = [{**row, "metrics": {m: row["metrics"].get(m) for m in wanted}} for row in rows]
    return found


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _has_metrics(rows: list[dict], metrics: list[str]) -> None:
    for metric in metrics:
        if not any(metric in row["metrics"] for row in rows):
            known = sorted({name for row in rows for name in row["metrics"]})
            raise DataError(f"no row has the metric {metric!r}; there are {known}")


def _rows(rows: list[dict], options: Mapping[str, str], extra: dict[str, Any]) -> str:
    chosen = _words(options.get("systems", ""))
    known = [row["system"] for row in rows]
    for name in chosen:
        if name not in known:
            raise DataError(f"there is no row {name!r}{nearest(name, known)}; there are {known}")
    if chosen:
        rows = [row for row in rows if row["system"] in chosen]
        beside = extra.get("beside", {}).items()
        extra = {**extra, "beside": {name: [r for r in other if r["system"] in chosen] for name, other in beside}}
    if "metrics" in options:
        extra = {**extra, "metrics": _words(options["metrics"])}
        _has_metrics(rows, extra["metrics"])
    if "sort" in options:
        # Best first; rows without the metric, which were left out, stay last.
        _has_metrics(rows, [options["sort"]])
        rows = sorted(rows, key=lambda row: -(row["metrics"].get(options["sort"], -1.0)))
    text = markdown_table(rows, **extra)
    return text.partition("\n\n")[0] + "\n" if options.get("notes") == "no" else text


def _number(result: Mapping[str, Any], options: Mapping[str, str]) -> str:
    rows = {row["system"]: row for row in result["rows"]}
    system, metric = options.get("system"), options.get("metric", "mIoU")
    if system not in rows:
        raise DataError(f"a number has system=, one of {list(rows)}; got {system!r}")
    row = rows[system]
    if metric not in row["metrics"]:
        raise DataError(f"{system!r} has no metric {metric!r}; it has {list(row['metrics'])}")
    wanted = options.get("interval") != "no"
    return format_number(metric, row["metrics"][metric], row.get("intervals", {}).get(metric) if wanted else None)


def _known(options: Mapping[str, str], valid: tuple[str, ...]) -> None:
    for name in options:
        if name not in valid:
            raise DataError(f"unknown option {name!r}{nearest(name, valid)}; valid are {list(valid)}")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``document`` command."""
    parser = subparsers.add_parser(
        "document",
        help="update tables and figures in the documents from result files",
        description="Update the tables, numbers and figures of README.md and docs/ from docs/results/*.json. They "
        "stand between comments (<!-- table FILE.json ... --> and <!-- end -->), each of which names its result file.",
    )
    parser.add_argument("files", nargs="*", help="documents (default: README.md and docs/**/*.md)")
    parser.add_argument("--root", default=".", metavar="FOLDER", help="folder that paths start from (%(default)s)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where something differs")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; 0, or 1 where ``--check`` found a difference."""
    root = Path(args.root)
    with os_errors(f"read {shown(root)}"):
        if not root.is_dir():
            raise DataError(f"there is no folder {shown(root)}")
    files = [Path(name) for name in args.files] or documents(root)
    for file in files:
        if not file.is_file():
            raise DataError(f"no document at {shown(file)}")
    found = [line for file in files for line in update(file, root, write=not args.check)]
    if args.json:
        print(json.dumps({"documents": [str(f) for f in files], "differences" if args.check else "changes": found}))
    else:
        for line in found:
            print(line, file=sys.stderr if args.check else sys.stdout)
        print(f"{len(files)} documents, {len(found)} {'differences' if args.check else 'changes'}")
    return int(args.check and bool(found))
