"""The models that the page offers, by what a user calls them."""

from __future__ import annotations

from functools import lru_cache

from strong_envs import agents
from strong_envs.agents.model_card import weights_file
from strong_envs.benchmarks.demo.look_search import SHIPPED, LookModel, is_look_predictor
from strong_envs.benchmarks.demo.search import Model


@lru_cache(maxsize=8)
def model_of(source: str, allow_import: bool = False) -> Model:
    """A model by ``pretrained``, ``looks``, the path of a file of weights, or of a folder with them."""
    if source == "pretrained":
        return Model("pretrained", agents.pretrained())
    file = SHIPPED if source == "looks" else weights_file(source)
    if is_look_predictor(file):
        return LookModel.of_file(source, file, allow_import)
    return Model(source, agents.load(source, allow_import=allow_import))
