"""Documents are held against the code: their Python runs, their commands parse, their links and line numbers exist.

``python tests/project/test_documents.py`` rewrites the line numbers of docs/equations.md.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
URL = "https://github.com/strong-envs/strong-envs"
FILES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
NAMES = [str(file.relative_to(ROOT)) for file in FILES]
EQUATIONS = ROOT / "docs" / "equations.md"
FOLDERS = {"features": "features", "agents": "agents", "benchmarks": "benchmarks"}
CODE = re.compile(r"`(strong_envs[\w.]*):([\w.]+)` \(\[line \d+\]\([^)]*\)\)")


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M)


def module_file(module: str) -> Path:
    """The file of a module by its name, in the folders of a checkout."""
    _, *parts = module.split(".")
    path = ROOT.joinpath(*parts) if parts and parts[0] in FOLDERS else ROOT.joinpath("strong_envs", *parts)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def line_of(module: str, qualname: str) -> int:
    """The line of a module in which a function, class, method or variable is defined."""
    body = ast.parse(module_file(module).read_text(encoding="utf-8")).body
    line = 0
    for part in qualname.split("."):
        for node in body:
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            names = [getattr(node, "name", None), *(getattr(target, "id", None) for target in targets)]
            if part in names:
                line, body = node.lineno, getattr(node, "body", [])
                break
        else:
            raise LookupError(f"{module} defines no {qualname}")
    return line


def with_lines(text: str) -> str:
    """The text with the right line and file in every reference to code."""

    def replace(match: re.Match) -> str:
        module, qualname = match.groups()
        line, file = line_of(module, qualname), module_file(module).relative_to(ROOT).as_posix()
        return f"`{module}:{qualname}` ([line {line}](../{file}#L{line}))"

    return CODE.sub(replace, text)


def arguments_of(words: list[str]) -> argparse.Namespace:
    """The words of a command line after ``strong-envs``, parsed as that command parses them."""
    from strong_envs.benchmarks.cli import MODULES

    parser = argparse.ArgumentParser(prog="strong-envs", exit_on_error=False)
    commands = parser.add_subparsers(dest="command", required=True)
    import_module(f"strong_envs.{MODULES[words[0]]}").add_parser(commands)
    return parser.parse_args(words)


def command_lines() -> list[tuple[str, str]]:
    found = []
    for name in NAMES:
        for block in blocks(text_of(name), "bash"):
            for line in block.splitlines():
                found += [(name, part.strip()) for part in line.split("&&") if part.strip().startswith("strong-envs ")]
    return found


@pytest.fixture
def user(tmp_path, monkeypatch):
    """An empty folder to work in; what the code of a document registers is forgotten afterwards."""
    from strong_envs.agents.registry import REGISTRY
    from strong_envs.benchmarks.metrics.metric import METRICS
    from strong_envs.core.rewards import SPATIAL_REWARDS, TEMPORAL_REWARDS
    from strong_envs.features.datasets import FORMATS, READERS

    monkeypatch.chdir(tmp_path)
    held = [(table, dict(table)) for table in (REGISTRY, METRICS, SPATIAL_REWARDS, TEMPORAL_REWARDS, FORMATS, READERS)]
    yield
    for table, before in held:
        table.clear()
        table.update(before)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in NAMES if blocks(text_of(name), "python")])
def test_python_blocks_run_in_order(name, user):
    code = blocks(text_of(name), "python")
    if "runs/first/system.safetensors" in "".join(code):
        train = "train --features shapes-v0 --system trl --budget 0.001 --evaluations 1 --out runs/first"
        args = arguments_of(shlex.split(train))
        assert args.run(args) == 0
    namespace: dict = {"__name__": "document"}
    for number, block in enumerate(code, 1):
        exec(compile(block, f"{name}, block {number}", "exec"), namespace)


def test_the_main_documents_have_python():
    assert len(blocks(text_of("README.md"), "python")) >= 2 and len(blocks(text_of("CONTRIBUTING.md"), "python")) >= 8
    pages = [name for name in NAMES if name.startswith("docs/systems/")]
    assert len(pages) >= 10 and all(blocks(text_of(name), "python") for name in pages)


@pytest.mark.parametrize(("name", "line"), command_lines(), ids=lambda x: str(x)[:60])
def test_commands_of_bash_blocks_parse(name, line):
    words = shlex.split(line, comments=True)[1:]
    try:
        arguments_of(words)
    except (SystemExit, argparse.ArgumentError) as error:
        raise AssertionError(f"{name}: {line!r} is refused: {error}") from None


@pytest.mark.parametrize("name", NAMES)
def test_commands_of_the_prose_exist(name):
    from strong_envs.benchmarks.cli import MODULES

    prose = re.sub(r"^```.*?^```", "", text_of(name), flags=re.S | re.M)
    for words in re.findall(r"`strong-envs ([a-z][^`]*)`", prose):
        command, *rest = words.replace("|", " ").split()
        assert command in MODULES, f"{name}: strong-envs {words}"
        parser = argparse.ArgumentParser()
        import_module(f"strong_envs.{MODULES[command]}").add_parser(parser.add_subparsers())
        known = next(iter(parser._subparsers._group_actions)).choices[command]._option_string_actions
        for word in rest:
            assert not word.startswith("--") or word in known, f"{name}: strong-envs {words}"


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    text = re.sub(r"^```.*?^```", "", text_of(name), flags=re.S | re.M)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, heading = link.partition("#")
        if file.startswith("http"):
            for kind in ("blob/main/", "tree/main/"):
                if file.startswith(f"{URL}/{kind}"):
                    assert (ROOT / file.removeprefix(f"{URL}/{kind}")).exists(), link
            if file.startswith("https://raw.githubusercontent.com/strong-envs/strong-envs/main/"):
                assert (ROOT / file.split("/main/")[1]).is_file(), link
            continue
        # A package page shows README.md alone.
        assert name != "README.md", f"{link} must be absolute"
        target = ROOT / Path(name).parent / file if file else ROOT / name
        assert target.exists(), f"{name}: {link}"
        if heading and target.suffix == ".md":
            titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.M)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in anchors, f"{name}: {link}"


def test_every_equation_has_code_options_tests_and_deviations():
    sections = re.split(r"^## ", EQUATIONS.read_text(encoding="utf-8"), flags=re.M)
    numbers: list[int] = []
    for section in sections:
        if match := re.match(r"Eqs?\. (\d+)(?: and (\d+))?:", section):
            numbers += [int(n) for n in match.groups() if n]
            code, tests = section.split("- **Options.**")[0], section.split("- **Tests.**")[1]
            assert CODE.search(code) and "::" in tests and "- **Deviations.** " in section, section[:40]
    assert numbers == list(range(1, 16))


def test_line_numbers_of_equations_are_right():
    text = EQUATIONS.read_text(encoding="utf-8")
    assert len(CODE.findall(text)) > 20
    assert text == with_lines(text), "run: python tests/project/test_documents.py"


def test_tests_that_documents_name_exist():
    found = [pair for name in NAMES for pair in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text_of(name))]
    assert len(found) > 20
    for file, function in found:
        assert (ROOT / file).is_file(), file
        assert not function or re.search(rf"^def {function}\(", text_of(file), re.M), f"{file}::{function}"


def test_paths_that_documents_name_exist():
    """Modules and folders in backticks, such as `strong_envs.core.rewards` or `docs/results/`."""
    for name in NAMES:
        if name == "CHANGELOG.md":
            continue  # names what is gone
        for path in re.findall(
            r"`((?:strong_envs|features|agents|benchmarks|docs|tests|examples)/[\w/.\-]*)`", text_of(name)
        ):
            assert (ROOT / path).exists(), f"{name}: {path}"
        for module in re.findall(r"`(strong_envs(?:\.[a-z_0-9]+)+)(?:\.[A-Z]\w*[\w.]*)?`", text_of(name)):
            parts = module.split(".")
            known = [n for n in range(1, len(parts) + 1) if module_file(".".join(parts[:n])).is_file()]
            # A function may follow its module.
            assert known and max(known) >= len(parts) - 1, f"{name}: {module}"


if __name__ == "__main__":
    changed = with_lines(EQUATIONS.read_text(encoding="utf-8"))
    staging = EQUATIONS.with_name(f".{EQUATIONS.name}.part{os.getpid()}")
    staging.write_text(changed, encoding="utf-8")
    os.replace(staging, EQUATIONS)
