"""Hooks of MkDocs: pages from docstrings, tutorials and files of the root; links that work here and on a code host.

The documents are written for a code host: links between them are relative, and those to code lead out of ``docs/``.
Here a link to a document becomes one to its page, and a link to anything else one to the repository. Nothing of the
package is imported: docstrings are read from the source, so that the site is built without torch.
"""

from __future__ import annotations

import ast
import inspect
import posixpath
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
URL = "https://github.com/strong-envs/strong-envs"
RAW = "https://raw.githubusercontent.com/strong-envs/strong-envs/main/"
PAGES = {
    "README.md": "main_results.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "CITATION.cff": "citation.md",
    "examples": "libraries.md",
    "examples/README.md": "libraries.md",
    "docs": "index.md",
    "docs/systems": "systems/index.md",
    "docs/results/README.md": "results/files.md",
    "docs/tutorials": "tutorials/index.md",
    "docs/tutorials/README.md": "tutorials/index.md",
}
"""Pages of the site by files and folders of the repository that are not under their own name."""
API: dict[str, tuple[str, ...]] = {
    "Environments": (
        "strong_envs.coupling",
        "strong_envs.policies",
        "strong_envs.demonstrations",
        "strong_envs.testing",
        "strong_envs.temporal.env",
        "strong_envs.temporal.vector_env",
        "strong_envs.temporal.one_shot",
        "strong_envs.temporal.task",
        "strong_envs.looks.env",
        "strong_envs.looks.vector_env",
        "strong_envs.looks.task",
        "strong_envs.spatial.env",
        "strong_envs.spatial.vector_env",
        "strong_envs.spatial.task",
    ),
    "Functions": (
        "strong_envs.core.spans",
        "strong_envs.core.boxes",
        "strong_envs.core.rewards",
        "strong_envs.core.sampling",
        "strong_envs.local_features",
    ),
    "Other libraries": (
        "strong_envs.adapters.sb3",
        "strong_envs.adapters.pettingzoo",
        "strong_envs.adapters.language_rewards",
        "strong_envs.adapters.offline",
    ),
    "Pictures": ("strong_envs.rendering.viewer", "strong_envs.rendering.recorder", "strong_envs.rendering.gif"),
    "Features": (
        "strong_envs.features",
        "strong_envs.features.registry",
        "strong_envs.features.bank.bank",
        "strong_envs.features.store.store",
        "strong_envs.features.datasets.types",
        "strong_envs.features.datasets.format",
        "strong_envs.features.datasets.collect",
        "strong_envs.features.encoders.text",
        "strong_envs.features.encoders.backbones",
        "strong_envs.features.errors",
    ),
    "Agents": (
        "strong_envs.agents.registry",
        "strong_envs.agents.inference",
        "strong_envs.agents.model_card",
        "strong_envs.agents.strong.agent",
        "strong_envs.agents.strong.args",
        "strong_envs.agents.strong.presets",
        "strong_envs.agents.training.session",
        "strong_envs.agents.training.checkpoint",
    ),
    "Benchmark": (
        "strong_envs.benchmarks.metrics.metric",
        "strong_envs.benchmarks.metrics.catalogue",
        "strong_envs.benchmarks.metrics.definitions",
        "strong_envs.benchmarks.metrics.statistics",
        "strong_envs.benchmarks.metrics.score",
        "strong_envs.benchmarks.cli",
    ),
}
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s]+)(\))")
COPY = tempfile.TemporaryDirectory(prefix="strong-envs-site-")
"""The package as an installation lays it out, for the API reference."""
BLOCK = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.S | re.M)


@event_priority(100)  # before the plugin of the reference reads its paths
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Let the API reference find the package as it is installed, and fill the navigation."""
    source = shutil.ignore_patterns("__pycache__", "data")
    shutil.copytree(ROOT / "strong_envs", Path(COPY.name) / "strong_envs", ignore=source, dirs_exist_ok=True)
    for part in ("features", "agents", "benchmarks"):
        shutil.copytree(ROOT / part, Path(COPY.name) / "strong_envs" / part, ignore=source, dirs_exist_ok=True)
    config.plugins["mkdocstrings"].config["handlers"]["python"]["paths"] = [COPY.name]
    environments = [{name: f"environments/{name}.md"} for name in ids()]
    systems = [{title(file): f"systems/{file.name}"} for file in sorted((ROOT / "docs/systems").glob("*.md"))]
    tutorials = [{tutorial_title(file): f"tutorials/{file.stem}.md"} for file in tutorial_files()]
    filled = {
        "Environments": ["environments/index.md", *environments],
        "Systems": ["systems/index.md", *systems],
        "Tutorials": ["tutorials/index.md", *tutorials],
        "API": ["api/index.md", *({group: [{n: api_page(n)} for n in there(group)]} for group in API)],
    }
    config.nav = [{name: filled.get(name, entry)} for item in config.nav or [] for name, entry in item.items()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    pages = {
        "changelog.md": moved("CHANGELOG.md", "changelog.md"),
        "contributing.md": moved("CONTRIBUTING.md", "contributing.md"),
        "results/files.md": moved("docs/results/README.md", "results/files.md"),
        "libraries.md": moved("examples/README.md", "libraries.md"),
        "citation.md": citation_page(),
        "systems/index.md": systems_page(),
        "tutorials/index.md": tutorials_page(),
        "environments/index.md": environments_page(),
        "api/index.md": api_index(),
        **{f"environments/{name}.md": environment_page(name) for name in ids()},
        **{f"tutorials/{file.stem}.md": tutorial_page(file) for file in tutorial_files()},
        **{api_page(name): f"# {name.removeprefix('strong_envs.')}\n\n::: {name}\n" for g in API for name in there(g)},
    }
    for uri, text in pages.items():
        if (old := files.get_file_from_path(uri)) is not None:
            files.remove(old)
        files.append(File.generated(config, uri, content=text))
    # As the index of its folder a README would be the first page of its tab.
    for uri in ("tutorials/README.md", "results/README.md"):
        if (old := files.get_file_from_path(uri)) is not None:
            files.remove(old)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead the links of a document to pages of the site; a page alone in its tab has no list of pages."""
    if page.file.src_uri in ("index.md", "gallery.md"):
        page.meta["hide"] = ["navigation"]
    if page.file.generated_by:
        return markdown
    return with_links(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def with_links(text: str, source: str, uri: str) -> str:
    """A document with its links for the site.

    Args:
        text: Markdown.
        source: where the document lies in the repository, which its relative links start from.
        uri: of its page.
    """

    def target_of(link: str) -> str:
        path, _, heading = link.partition("#")
        heading = f"#{heading}" if heading else ""
        for prefix in (f"{URL}/blob/main/", f"{URL}/tree/main/", RAW):
            if path.startswith(prefix):
                path = path.removeprefix(prefix).rstrip("/")
                break
        else:
            if "://" in path or path.startswith("mailto:") or not path:
                return link
            path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        page = PAGES.get(path)
        if page is None and path.startswith("docs/tutorials/") and path.endswith(".py"):
            page = path.removeprefix("docs/").removesuffix(".py") + ".md"
        # Result files are not part of the site: links to them lead to the repository.
        if page is None and path.startswith("docs/") and (ROOT / path).is_file() and not path.endswith(".json"):
            page = path.removeprefix("docs/")
        if page is None:
            kind = "tree" if (ROOT / path).is_dir() else "blob"
            return f"{URL}/{kind}/main/{path}{heading}"
        return posixpath.relpath(page, posixpath.dirname(uri) or ".") + heading

    def change(part: str) -> str:
        part = LINK.sub(lambda m: m[1] + target_of(m[2]) + m[3], part)
        return re.sub(r'(<img[^>]*? src=")([^"]+)(")', lambda m: m[1] + target_of(m[2]) + m[3], part)

    # The text of a link may hold code, so only blocks of code are left alone.
    parts, last = [], 0
    for match in BLOCK.finditer(text):
        parts += [change(text[last : match.start()]), match.group()]
        last = match.end()
    return "".join([*parts, change(text[last:])])


def moved(source: str, uri: str) -> str:
    """A document of another folder as a page."""
    return with_links((ROOT / source).read_text(encoding="utf-8"), source, uri)


def title(file: Path) -> str:
    """The first heading of a document."""
    return re.search(r"^# (.+)$", file.read_text(encoding="utf-8"), re.M)[1].replace("`", "")


def summary(file: Path) -> str:
    """The first paragraph of a document, in one line."""
    text = file.read_text(encoding="utf-8").split("\n", 1)[1].strip()
    return " ".join(text.split("\n\n", 1)[0].split())


def ids() -> dict[str, str]:
    """The registered ids with the entry point of the scalar environment, read from the source."""
    for node in ast.parse((ROOT / "strong_envs/registration.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "IDS":
            return {name: entry[0] for name, entry in ast.literal_eval(node.value).items()}
    raise LookupError("strong_envs/registration.py has no IDS")


def docstring(entry: str) -> str:
    """The docstring of ``module:Class`` below ``strong_envs``."""
    module, _, name = entry.partition(":")
    tree = ast.parse((ROOT / "strong_envs" / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))
    node: Any = next(x for x in tree.body if isinstance(x, ast.ClassDef) and x.name == name)
    return inspect.cleandoc(ast.get_docstring(node) or "")


def picture(name: str, uri: str) -> str:
    """The GIF of an environment as Markdown; empty where there is none."""
    if not (ROOT / f"docs/gallery/{name}.gif").is_file():
        return ""
    where = posixpath.relpath(f"gallery/{name}.gif", posixpath.dirname(uri) or ".")
    return f"![Episodes of {name}]({where}){{ width=480 height=360 loading=lazy }}\n\n"


def environment_page(name: str) -> str:
    """The page of an environment from its docstring."""
    first, _, rest = docstring(ids()[name]).partition("\n")
    said = first.split(": ", 1)[-1]
    made = f'```python\nimport gymnasium as gym\nimport strong_envs\n\nenv = gym.make("{name}")\n'
    made += f'envs = gym.make_vec("{name}", num_envs=256)\n```\n\n'
    lead = said[0].upper() + said[1:]
    return f"# {name}\n\n{lead}\n\n{picture(name, f'environments/{name}.md')}{made}{rest.strip()}\n"


def environments_page() -> str:
    """All environments in one table."""
    lines = ["# Environments", "", "| id | what an agent does |", "| --- | --- |"]
    for name, entry in ids().items():
        said = docstring(entry).splitlines()[0].split(": ", 1)[-1]
        lines.append(f"| [{name}]({name}.md) | {said[0].upper() + said[1:]} |")
    said = "Every id has a scalar form (`gym.make`) and a vector form (`gym.make_vec`). Ids with `Flat`, such as "
    said += "`TemporalMomentFlat-v0`, have `flatten=True`. The [gallery](../gallery.md) shows all of them in motion."
    return "\n".join([*lines, "", said, ""])


def systems_page() -> str:
    """All pages of systems with their first sentences."""
    lines = ["# Systems", "", "One page for each published system and each of this project's own.", ""]
    for file in sorted((ROOT / "docs/systems").glob("*.md")):
        said = with_links(summary(file), f"docs/systems/{file.name}", "systems/index.md")
        lines += [f"## [{title(file)}]({file.name})", "", said, ""]
    return "\n".join(lines)


def tutorial_files() -> list[Path]:
    """The scripts of the tutorials in their order."""
    return sorted((ROOT / "docs/tutorials").glob("[0-9]*.py"))


def cells(file: Path) -> list[tuple[bool, str]]:
    """The cells of a script in the percent format: whether it is text, and what it holds."""
    found = []
    for cell in re.split(r"^# %%", file.read_text(encoding="utf-8"), flags=re.M)[1:]:
        head, _, body = cell.partition("\n")
        text = "[markdown]" in head
        if text:
            body = "\n".join(line.removeprefix("#").removeprefix(" ") for line in body.strip().splitlines())
        found.append((text, body.strip()))
    return found


def tutorial_title(file: Path) -> str:
    """The heading of a tutorial."""
    return re.search(r"^# (.+)$", cells(file)[0][1], re.M)[1]


def tutorial_page(file: Path) -> str:
    """A tutorial as a page: its text, its code in blocks, and how to run it."""
    name = f"docs/tutorials/{file.name}"
    parts = [body if text else f"```python\n{body}\n```" for text, body in cells(file)]
    how = f"This page is the script [`{name}`]({URL}/blob/main/{name}), which the tests run."
    text = "\n\n".join([parts[0], how, *parts[1:]])
    return with_links(text, name, f"tutorials/{file.stem}.md") + "\n"


def tutorials_page() -> str:
    """The list of tutorials."""
    return moved("docs/tutorials/README.md", "tutorials/index.md")


def api_page(name: str) -> str:
    """Where the page of a module is."""
    return f"api/{name}.md"


def there(group: str) -> list[str]:
    """The modules of a group of the reference that exist."""

    def exists(name: str) -> bool:
        _, *parts = name.split(".")
        base = ROOT if parts[0] in ("features", "agents", "benchmarks") else ROOT / "strong_envs"
        path = base.joinpath(*parts)
        return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()

    return [name for name in API[group] if exists(name)]


def api_index() -> str:
    """The list of modules with the first line of their docstrings."""
    lines = ["# API reference", "", "The modules that programs use. All are imported below `strong_envs`.", ""]
    for group in API:
        lines += [f"## {group}", "", "| module | content |", "| --- | --- |"]
        for name in there(group):
            _, *parts = name.split(".")
            base = ROOT if parts[0] in ("features", "agents", "benchmarks") else ROOT / "strong_envs"
            path = base.joinpath(*parts)
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            said = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n")[0]
            lines.append(f"| [`{name}`]({name}.md) | {said} |")
        lines.append("")
    return "\n".join(lines)


def citation_page() -> str:
    """How to cite, from CITATION.cff."""
    file = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    bibtex = re.search(r"^```bibtex\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S | re.M)
    entry = f"```bibtex\n{bibtex[1]}```\n\n" if bibtex else ""
    return f"# Citation and licence\n\nThe licence is MIT.\n\n{entry}`CITATION.cff`:\n\n```yaml\n{file}```\n"


def on_post_build(config: MkDocsConfig) -> None:
    """Take from the theme's script the addresses of what it would fetch: a worker for pages on disk, diagrams."""
    for file in Path(config.site_dir).glob("assets/javascripts/*.js"):
        text = file.read_text(encoding="utf-8")
        file.write_text(re.sub(r"https://unpkg\.com/[\w@./-]+", "data:text/javascript,", text), encoding="utf-8")
