"""Seeded damage to saved systems and checkpoints: JSON headers and tensors with one or two faults."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

VALUES = [
    None, -1, 0, 1, 2, 10**12, 10**30, 1e308, -0.5, 0.5, True, False, "", "x", "frame", "tracked", "x" * 500, "a.b:c",
    "dotted:os:system", [], [1], [[1]], {}, {"a": 1}, [1, 2, 3, 4, 5], float("nan"), float("inf"), "pretrained",
    "q_value",
]  # fmt: skip


def write(path: Path, tensors: dict[str, torch.Tensor], about: Any) -> None:
    """A file as earlier releases wrote it, without a checksum."""
    held = {name: value.contiguous().clone() for name, value in tensors.items()}
    save_file(held, str(path), {"format": "strong-envs agent", "about": json.dumps(about)})


def places(tree: Any, path: tuple = ()) -> list[tuple]:
    found = [path] if path else []
    if isinstance(tree, dict):
        return found + [one for key in tree for one in places(tree[key], (*path, key))]
    if isinstance(tree, list):
        return found + [one for i in range(min(len(tree), 4)) for one in places(tree[i], (*path, i))]
    return found


def spoilt_header(about: dict, draw: random.Random) -> dict:
    tree = copy.deepcopy(about)
    for _ in range(draw.choice([1, 1, 1, 2])):
        path = draw.choice(places(tree) or [()])
        if not path:
            return tree
        node = tree
        for key in path[:-1]:
            node = node[key]
        how = draw.random()
        if how < 0.15:
            del node[path[-1]]
        elif how < 0.25 and isinstance(node, dict):
            node[f"{path[-1]}x"] = node.pop(path[-1])
        else:
            node[path[-1]] = copy.deepcopy(draw.choice(VALUES))
    return tree


def spoilt_tensors(tensors: dict[str, torch.Tensor], draw: random.Random) -> dict[str, torch.Tensor]:
    held = dict(tensors)
    name = draw.choice(sorted(held))
    value, how = held[name], draw.randrange(8)
    if how == 0:
        del held[name]
    elif how == 1:
        held[name] = value[:-1].clone() if value.dim() else value.reshape(1)
    elif how == 2:
        held[name] = value.to(torch.float16 if value.is_floating_point() else torch.float32)
    elif how == 3 and value.numel():
        numbers = value.clone().reshape(-1)
        odd = [float("nan"), float("inf"), 1e38] if value.is_floating_point() else [-1, 100, 127]
        numbers[draw.randrange(len(numbers))] = draw.choice(odd)
        held[name] = numbers.reshape(value.shape)
    elif how == 4:
        held[f"{name}x"] = held.pop(name)
    elif how == 5:
        held[name] = torch.zeros(value.shape, dtype=torch.int64)
    elif how == 6:
        held[name] = value.reshape(-1).clone()
    else:
        held["extra"] = torch.zeros(3)
    return held


def spoilt_bytes(raw: bytes, draw: random.Random) -> bytes:
    """Bytes with one overwritten, a piece removed, or an end cut off."""
    at = draw.randrange(len(raw))
    how = draw.randrange(3)
    if how == 0:
        return raw[:at] + bytes([raw[at] ^ (1 << draw.randrange(8))]) + raw[at + 1 :]
    return raw[:at] if how == 1 else raw[:at] + raw[at + 1 + draw.randrange(9) :]
