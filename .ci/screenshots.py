"""Pictures of README, the site and the demo in a browser at two widths: python .ci/screenshots.py [readme site demo].

They need Chromium and the extras `docs` and `demo`, and go to docs/figures. Nothing but the drawn world is shown.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))
from chromium import Chromium  # noqa: E402 - a helper of the tests

OUT = ROOT / "docs" / "figures"
SIZES = ((1280, 900), (390, 844))
RAW = "https://raw.githubusercontent.com/strong-envs/strong-envs/main/"
STYLE = """
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; color: #1f2328; }
table { display: block; width: max-content; max-width: 100%; overflow: auto; border-collapse: collapse; }
th, td { border: 1px solid #d1d9e0; padding: .4rem .8rem; } img { max-width: 100%; }
h1, h2 { border-bottom: 1px solid #d1d9e0; padding-bottom: .3rem; } a { color: #0969da; text-decoration: none; }
pre { background: #f6f8fa; padding: 1rem; overflow: auto; font-size: 85%; } code { background: #818b981f; }
pre code { background: none; } .badge { background: #444; color: white; padding: .1rem .4rem; font-size: .75rem; }
"""


def readme(browser: Chromium, folder: Path, width: int, height: int) -> None:
    """README as a code host shows it, with pictures of this checkout; badges, whose addresses are outside, as words."""
    import markdown

    text = (ROOT / "README.md").read_text(encoding="utf-8").replace(RAW, f"{ROOT.as_uri()}/")
    body = markdown.markdown(text, extensions=["tables", "fenced_code"])
    body = re.sub(r'<img alt="([^"]*)" src="https[^"]*" ?/?>', r'<span class="badge">\1</span>', body)
    page = folder / "readme.html"
    head = '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    page.write_text(f"{head}<style>{STYLE}</style>{body}", encoding="utf-8")
    browser.open(page, width, height)
    browser.wait("[...document.images].every(image => image.naturalWidth)")
    keep(browser, folder, f"readme_{width}")


def site(browser: Chromium, folder: Path, width: int, height: int) -> None:
    """The first page of the site, built from this checkout."""
    pages = folder / "site"
    if not pages.is_dir():
        words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(pages)]
        subprocess.run(words, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=True)
    browser.open(pages / "index.html", width, height)
    browser.wait("[...document.images].every(image => image.naturalWidth)")
    keep(browser, folder, f"site_{width}")


def demo(browser: Chromium, folder: Path, width: int, height: int) -> None:
    """A held-out query of the drawn world, searched by looks, with its truth."""
    words = [sys.executable, "-W", "ignore", "-m", "strong_envs", "demo", "looks", "--port", "0"]
    page = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert page.stdout is not None
        browser.open(page.stdout.readline().split()[0], width, height)
        browser.wait("document.querySelector('#model')?.innerText")
        tab = "[...document.querySelectorAll('button[role=tab]')].find(b => /Held/.test(b.textContent))"
        browser.wait(tab)
        browser.run(f"{tab}.click()")
        browser.wait("document.querySelector('#find-query')")
        browser.run("document.querySelector('#truth input').click()")
        browser.run("document.querySelector('#find-query').click()")
        browser.wait("document.querySelector('#query-bar .true')")
        browser.wait("document.querySelector('#query-still img')?.naturalWidth")
        browser.run("new Promise(done => setTimeout(done, 1500))")
        keep(browser, folder, f"demo_{width}", whole=True)
    finally:
        page.send_signal(2)
        page.wait(timeout=60)


def keep(browser: Chromium, folder: Path, name: str, whole: bool = False) -> None:
    """Store what is in view with 256 colours."""
    browser.screenshot(folder / "shot.png", whole)
    content = BytesIO()
    Image.open(folder / "shot.png").convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(
        content, "PNG", optimize=True
    )
    (OUT / f"{name}.png").write_bytes(content.getvalue())
    print(f"docs/figures/{name}.png: {len(content.getvalue()) / 1000:.0f} kB")


def main() -> None:
    """Take the pictures that are named, or all."""
    named = sys.argv[1:] or ["readme", "site", "demo"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        for width, height in SIZES:
            with Chromium(Path(place) / f"profile{width}", seconds=90) as browser:
                for name in named:
                    {"readme": readme, "site": site, "demo": demo}[name](browser, Path(place), width, height)


if __name__ == "__main__":
    main()
