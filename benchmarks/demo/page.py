"""The page itself, made with Gradio: a video file and a sentence, or a held-out query, and the search step by step."""

from __future__ import annotations

import html
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

from strong_envs.benchmarks.demo import time_bar
from strong_envs.benchmarks.demo.look_search import LOOKS, LookModel
from strong_envs.benchmarks.demo.search import Model, Search, search_file, search_query
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.rendering.gif import write_gif

QUERIES = 200
"""Queries that the list offers."""
MOST_LOOKS = 60
CSS = (
    """
.gradio-container { max-width: 70rem !important; margin: auto; }
#answer h2 { margin: 0 0 .3rem; }
#model { border-left: 3px solid #f5962b; padding-left: .8rem; }
#preview video { max-width: 100%; max-height: 16rem; }
footer { display: none !important; }
"""
    + time_bar.CSS
)
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]


def theme() -> Any:
    """A theme without fonts of another address."""
    import gradio as gr  # type: ignore[import-not-found]

    return gr.themes.Default(primary_hue="orange", font=FONTS, font_mono=["ui-monospace", "monospace"])


def build(models: list[Model], bank: FeatureBank | None, folder: Path | None = None) -> Any:
    """The page, a ``gradio.Blocks``.

    Args:
        models: at least one.
        bank: whose queries are offered; None for none.
        folder: where the GIFs go; a temporary one by default.
    """
    import gradio as gr

    by_name = {model.name: model for model in models}
    place = Path(tempfile.mkdtemp(prefix="strong-envs-demo-")) if folder is None else folder
    count = [0]

    def show(search: Search, truth: bool) -> list[Any]:
        count[0] += 1
        pictures = search.pictures(truth)
        seconds = [0.8, *[0.35] * (len(pictures) - 2), 2.0][-len(pictures) :]
        film = write_gif(place / f"search-{count[0] % 50}.gif", pictures, seconds)
        last = len(pictures) - 1
        first = search.first_step
        slider = gr.update(minimum=first, maximum=max(last, 1) + first, value=last + first, visible=last > 0)
        bar = _shown(time_bar.time_bar(search, last, truth))
        return [search, search.answer(truth), _shown(str(film)), slider, _shown(pictures[-1]), bar]

    def model_named(name: str, looks: float) -> Model:
        model = by_name[name]
        if isinstance(model, LookModel):
            model.looks = int(looks)
        return model

    def find_in_file(name: str, looks: float, path: str | None, sentence: str) -> list[Any]:
        if not path:
            raise gr.Error("Choose a video file first.")
        if not (sentence or "").strip():
            raise gr.Error("Type a sentence that says what happens.")
        try:
            return show(search_file(model_named(name, looks), path, sentence), False)
        except DataError as error:
            raise gr.Error(str(error)) from None

    def find_query(name: str, looks: float, qid: str, truth: bool) -> list[Any]:
        assert bank is not None
        try:
            return show(search_query(model_named(name, looks), bank, qid), truth)
        except DataError as error:
            raise gr.Error(str(error)) from None

    def step_of(search: Search | None, step: float, truth: bool) -> list[Any]:
        if search is None:
            return [gr.skip(), gr.skip()]
        step = int(step) - search.first_step
        return [search.picture(step, truth), time_bar.time_bar(search, step, truth)]

    def choose(name: str) -> list[Any]:
        return [by_name[name].about(), gr.update(visible=isinstance(by_name[name], LookModel))]

    # Keys move the slider too; of the steps that are passed quickly the last one is drawn.
    quietly: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}
    with gr.Blocks(title="STRONG-envs: find a moment", analytics_enabled=False) as page:
        gr.Markdown(
            "# Find a moment\n\nA trained agent moves a window until it holds what a sentence describes, or looks at a "
            "few frames and names it."
        )
        with gr.Row():
            several = len(models) > 1
            chosen = gr.Dropdown(list(by_name), value=models[0].name, label="Model", visible=several, elem_id="models")
            few = isinstance(models[0], LookModel)
            looks = gr.Slider(1, MOST_LOOKS, LOOKS, step=1, label="Frames to look at", visible=few, elem_id="looks")
        about = gr.Markdown(models[0].about(), elem_id="model")
        chosen.change(choose, chosen, [about, looks])

        def results(prefix: str) -> list[Any]:
            search = gr.State(None)
            answer = gr.Markdown(elem_id="answer" if prefix == "file" else "answer-query")
            with gr.Row():
                film = _picture("The search", f"{prefix}-film", type="filepath")
                still = _picture("One step of it", f"{prefix}-still")
            bar = gr.HTML(visible=False, elem_id=f"{prefix}-bar")
            step = gr.Slider(0, 1, value=0, step=1, label="Step", visible=False, elem_id=f"{prefix}-step")
            return [search, answer, film, step, still, bar]

        with gr.Tab("Your video"):
            with gr.Row():
                with gr.Column():
                    video = gr.File(label="Video file", file_types=["video"], elem_id="video", height=120)
                    preview = gr.HTML(elem_id="preview")
                    video.change(_preview, video, preview)
                with gr.Column():
                    sentence = gr.Textbox(label="Sentence", placeholder="a person opens the door", elem_id="sentence")
                    button = gr.Button("Find the moment", variant="primary", elem_id="find")
            shown = results("file")
            inputs = [chosen, looks, video, sentence]
            button.click(find_in_file, inputs, shown)
            sentence.submit(find_in_file, inputs, shown)
            shown[3].input(
                lambda search, step: step_of(search, step, False), [shown[0], shown[3]], shown[4:], **quietly
            )
        if bank is not None:
            with gr.Tab("Held-out queries"):
                gr.Markdown(f"Queries of the part `{bank.split}` of {bank.store.name}, which no training has seen.")
                some = range(min(QUERIES, len(bank)))
                choices = [(f"{bank.texts[i]} ({bank.queries[i].video})", bank.qids[i]) for i in some]
                query = gr.Dropdown(choices, value=choices[0][1], label="Query", elem_id="query")
                with gr.Row():
                    truth = gr.Checkbox(False, label="Show the truth", elem_id="truth")
                    ask = gr.Button("Find the moment", variant="primary", elem_id="find-query")
                seen = results("query")
                ask.click(find_query, [chosen, looks, query, truth], seen)
                # The search that is shown, drawn again: the query may have been changed since.
                truth.change(
                    lambda search, on: show(search, on) if search else [gr.skip()] * len(seen), [seen[0], truth], seen
                )
                seen[3].input(step_of, [seen[0], seen[3], truth], seen[4:], **quietly)
    page.strong_envs_folder = place
    return page


def _preview(path: str | None) -> str:
    """A player for the file that was chosen; it hides itself where the browser cannot play the file."""
    if path is None:
        return ""
    source = html.escape(f"/gradio_api/file={quote(path)}")
    return f'<video controls muted src="{source}" onerror="this.remove()" aria-label="the chosen video"></video>'


def _picture(label: str, elem_id: str, **options: Any) -> Any:
    """A picture that is hidden until there is one; its label would cover the sentence in it."""
    import gradio as gr

    hidden: dict[str, Any] = {"show_label": False, "buttons": [], "interactive": False, "visible": False}
    return gr.Image(label=label, elem_id=elem_id, **hidden, **options)


def _shown(value: Any) -> Any:
    import gradio as gr

    return gr.update(value=value, visible=True)
