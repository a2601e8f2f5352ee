"""``strong-envs table1`` and ``table2``: the paper's tables in our protocol, and its claims."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from strong_envs.agents.overrides import check_settings, with_settings
from strong_envs.benchmarks.execution.job import Variant, finish, importable_here, run_job, settings_of
from strong_envs.benchmarks.execution.learned_boxes import SUFFIX, boxes_for, plain_name, takes_boxes
from strong_envs.benchmarks.metrics.ground_truth import units_of
from strong_envs.benchmarks.metrics.statistics import difference_test, holm
from strong_envs.benchmarks.options import add_arguments, apply_quick, held_output
from strong_envs.benchmarks.results.collect import chosen_metrics, collect
from strong_envs.benchmarks.results.files import write_json
from strong_envs.benchmarks.results.paper_numbers import CLAIMS, DATA, METRICS, TABLES, Claim, rows
from strong_envs.benchmarks.results.tables import ABSENT, columns_of
from strong_envs.benchmarks.tuning.chosen import with_tuned
from strong_envs.features.files.atomic import write_text

ALPHA = 0.05
"""Of all claims of a table together."""
PAPER_FORM = "STRONG (paper)"
"""STRONG to the letter of the paper, `strong_envs.agents.strong.paper_walk`: the claims are judged for it, too."""
SIDE = ("Acc@.5", "Acc@.7", "mIoU")
"""Columns of the paper's numbers in the printed table; the result file has all of them."""
REFERENCES = (
    "colour x motion rule",
    "blind one-shot",
    "bilinear regression",
    "frame classifier (whole frames)",
    "frame classifier",
)
"""Rows of ours beside the paper's, from the one that learns nothing to the strongest that does not move."""
TITLES = {1: "Table 1: comparison of the systems", 2: "Table 2: variants of the spatial level"}


def registered(label: str) -> str | None:
    """The registered name of a system of the paper, whatever its hyphens and capitals; None where there is none."""
    from strong_envs import agents

    def plain(name: str) -> str:
        return "".join(c for c in name.lower() if c.isalnum() or c == "+")

    return next((name for name in agents.names() if plain(name) == plain(label)), None)


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add ``table1`` and ``table2``."""
    for number, title in TITLES.items():
        parser = subparsers.add_parser(
            f"table{number}",
            help=title,
            description=f"{title}, in the protocol of this project on --features. The row of a system that is "
            "missing, or that the store cannot serve, gives the reason. The numbers that the paper printed stand in "
            "columns of their own, and its claims are tested.",
        )
        add_arguments(parser)
        systems = ",".join(labels_of(number))
        parser.set_defaults(run=partial(main, number=number), systems=systems, out=f"results/table{number}")


def labels_of(number: int) -> list[str]:
    """The rows of a table as it is printed here, without those on learned boxes."""
    return [*REFERENCES, *TABLES[number][DATA[0]], PAPER_FORM]


def main(args: argparse.Namespace, number: int) -> int:
    """Run the command; exit codes as of ``run``."""
    from strong_envs import agents

    apply_quick(args)
    importable_here()
    labels = [name.strip() for name in args.systems.split(",") if name.strip()]
    if args.boxes:
        labels = with_boxed_rows(labels)
    own = [label for label in [*labels, *args.agent] if ":" in label]
    found = {label: registered(plain_name(label)) for label in labels} | {
        label: agents.find(label).name for label in own
    }
    reasons = {label: "absent: no system of this name in this release" for label, name in found.items() if not name}
    with held_output(args) as out:
        notes = stand_ins(found, args)
        settings = settings_of(args)
        check_settings([name for name in found.values() if name], settings)
        variants = [
            Variant(label, name, with_settings(name, settings), boxes_of(label, name, args.boxes))
            for label, name in found.items()
            if name
        ]
        variants = with_tuned(args, variants)
        job = run_job(args, variants)
        result = collect(job)
        fill(result, list(found), reasons, number)
        for row in result["rows"]:
            if row["system"] in notes:
                row["note"] = " ".join(filter(None, [notes[row["system"]], row.get("note")]))
        write_json(out / "results.json", result)
        draw(result, out, chosen_metrics(args, result))
        show(result, args, out, number)
        return finish(job)


def with_boxed_rows(labels: list[str]) -> list[str]:
    """The rows of a table, each that is made for whole frames followed by the same system on learned boxes."""
    rows = []
    for label in labels:
        name = registered(label)
        rows += [label, label + SUFFIX] if name and takes_boxes(name) and label not in REFERENCES else [label]
    return list(dict.fromkeys(rows))


def boxes_of(label: str, name: str, source: str | None) -> tuple[str, ...]:
    """The boxes that a row looks through: those of ``--boxes`` where its label ends with `SUFFIX`."""
    return boxes_for(name + SUFFIX, source) if label.endswith(SUFFIX) else ()


def stand_ins(found: dict[str, str | None], args: argparse.Namespace) -> dict[str, str]:
    """Put the stand-in of a system in ``found`` (label to name) where the store cannot serve it; notes by label."""
    from strong_envs import agents, features
    from strong_envs.agents.strong.variants import STAND_INS

    notes = {}
    for label, name in found.items():
        if name in STAND_INS:
            bank = features.load(args.features, args.train)
            other, reason = STAND_INS[name], agents.incompatibility(name, bank)
            if reason and agents.incompatibility(other, bank) is None:
                found[label] = other
                notes[label] = f"{reason}; {other} stands in: {agents.find(other).description}."
    return notes


def arrange(result: dict[str, Any]) -> dict[str, Any]:
    """A table put together from several files: rows in the paper's order, and its claims judged over all of them."""
    there = {row["system"] for row in result["rows"]}
    number = result["table"]
    labels = with_boxed_rows(labels_of(number))
    fill(result, [label for label in labels if label in there], {}, number)
    return result


def fill(result: dict[str, Any], labels: list[str], reasons: dict[str, str], number: int) -> None:
    """Put rows in the paper's order with those that are absent, the paper's numbers, and what became of its claims."""
    by_system = {row["system"]: row for row in result["rows"]}
    ordered = []
    for label in labels:
        if label in by_system:
            ordered.append(by_system.pop(label))
            continue
        ordered.append(
            {"system": label, "protocol": result["protocol"], "seeds": None, "metrics": {}, "caveat": reasons[label]}
        )
    result["rows"] = [*ordered, *by_system.values()]
    result["table"] = number
    result["paper"] = {data: rows(number, data) for data in DATA}
    result["claims"] = judge(result, number)


def judge(result: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Each claim of the paper against our numbers: ``holds``, ``contradicted``, ``undecided`` or ``not tested``.

    A claim is judged as it is printed, between rows of one kind (`pairs_of`), and for STRONG to the letter of the
    paper. By mIoU, over training runs and videos (`difference_test`), with p-values adjusted for the number of all
    these tests of the table (`holm`): one is decided where its adjusted value is below 5 %. ``low`` and ``high`` are
    the 95 % interval of the difference, not adjusted.
    """
    scores, found = result["per_query"], []
    sees = {row["system"]: row.get("sees") for row in result.get("rows", [])}
    for claim in CLAIMS[number]:
        for better, worse, form in pairs_of(claim, set(scores["IoU"])):
            entry: dict[str, Any] = {"better": better, "worse": worse, "section": claim.section, "form": form}
            if sees.get(better) and sees.get(worse):
                entry["same_information"] = sees[better] == sees[worse]
            if better in scores["IoU"] and worse in scores["IoU"]:
                test = difference_test(scores["IoU"][better], scores["IoU"][worse], groups=units_of(scores))
                entry |= test.as_dict()
            else:
                entry["verdict"] = "not tested"
            found.append(entry)
    tested = [entry for entry in found if "p_value" in entry]
    for entry, p in zip(tested, holm([entry["p_value"] for entry in tested]), strict=True):
        decided = "holds" if entry["difference"] > 0 else "contradicted"
        entry |= {"p_adjusted": p, "verdict": decided if p < ALPHA else "undecided"}
    return found


def pairs_of(claim: Claim, there: set[str]) -> list[tuple[str, str, str]]:
    """The rows that a claim is judged by: better, worse, and for which form of STRONG, ``"ours"`` or ``"paper"``.

    Besides the claim as it is printed: against the same system on learned boxes, where there is such a row, and with
    STRONG to the letter of the paper in the place of STRONG.
    """
    pairs = [(claim.better, claim.worse, "ours")]
    if claim.worse + SUFFIX in there and claim.better + SUFFIX not in there:
        pairs.append((claim.better, claim.worse + SUFFIX, "ours"))
    if claim.better + SUFFIX in there and claim.worse + SUFFIX in there:
        pairs.append((claim.better + SUFFIX, claim.worse + SUFFIX, "ours"))
    if claim.better == "STRONG" and PAPER_FORM in there:
        pairs += [(PAPER_FORM, worse, "paper") for _, worse, _ in list(pairs)]
    return pairs


def draw(result: dict[str, Any], out: Path, metrics: list[str] | None = None) -> None:
    """table.md, table.png and curve.png."""
    from strong_envs.benchmarks.results import figures

    write_text(out / "table.md", markdown(result, metrics))
    figures.table_figure(result["rows"], out / "table.png")
    if result["curves"]:
        figures.learning_curves(figures.with_traces(result), out / "curve.png", "share")


def markdown(result: dict[str, Any], metrics: list[str] | None = None) -> str:
    """The table with the paper's columns beside it, then its claims."""
    from strong_envs.benchmarks.results.tables import markdown_table

    table = markdown_table(result["rows"], **columns(result, metrics))
    return f"{table}\n{claims_markdown(result['claims'])}"


def claims_markdown(claims: list[dict[str, Any]]) -> str:
    """The claims as a Markdown table; whether both rows see the same is said where the file knows it."""
    known = any("same_information" in c for c in claims)
    heads = [
        "the paper claims",
        "section",
        *(["same input"] if known else []),
        "here",
        "difference in mIoU",
        "adjusted p",
    ]
    rule = ["---"] * (4 if known else 3) + ["---:"] * 2
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join(rule)} |"]
    for c in claims:
        number = ABSENT
        if "difference" in c:
            number = f"{100 * c['difference']:+.2f} [{100 * c['low']:+.2f}, {100 * c['high']:+.2f}]"
        p = f"{c['p_adjusted']:.4f}" if "p_adjusted" in c else ABSENT
        same = [{True: "yes", False: "no", None: ABSENT}[c.get("same_information")]] if known else []
        cells = [f"{c['better']} above {c['worse']}", c["section"], *same, c["verdict"], number, p]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def columns(result: Mapping[str, Any], metrics: list[str] | None = None) -> dict[str, Any]:
    """Arguments of the table: our metrics, and the paper's numbers of both data sets under their own headings."""
    metrics = metrics or columns_of(result["rows"])
    ours = {row["system"] for row in result["rows"]}
    beside = {
        f"paper, {data}": [
            {**row, "metrics": {m: row["metrics"][m] for m in SIDE}} for row in printed if row["system"] in ours
        ]
        for data, printed in result["paper"].items()
    }
    return {"metrics": metrics, "beside": {heading: printed for heading, printed in beside.items() if printed}}


def show(result: dict[str, Any], args: argparse.Namespace, out: Path, number: int) -> None:
    """Print the table and the claims, or the result file with ``--json``."""
    if args.json:
        print(json.dumps(result))
        return
    import rich
    from rich.console import Console

    from strong_envs.benchmarks.results.tables import print_table

    console = Console(width=max(rich.get_console().width, 140))
    title = f"Table {number} on {result['protocol']['data']}, {args.test}"
    print_table(result["rows"], chosen_metrics(args, result), title=title, console=console)
    for data, printed in result["paper"].items():
        title = f"Table {number} as the paper printed it, {data}: another protocol"
        print_table(printed, METRICS, title=title, console=console, legend=False)
    for c in result["claims"]:
        number_text = f", {100 * c['difference']:+.2f} mIoU" if "difference" in c else ""
        print(f"{c['better']} above {c['worse']} ({c['section']}): {c['verdict']}{number_text}")
    print(f"{out}: results.json, table.md, table.png ({result['wall_seconds']:.0f} s)")
