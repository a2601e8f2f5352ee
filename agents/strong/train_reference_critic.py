"""``strong-envs train-reference-critic``: trains the critic that ships with the default world, in about two minutes.

It values every move in the windows of ``TemporalMoment-v0`` (default arguments) from features inside random boxes,
those that the shipped STRONG has found among them, so that `SpatialTrack-v0` can compare boxes. No GT box takes part.
It is trained on the reward of each move by Eq. 5 relative to stopping. Written to
``strong_envs/data/reference_critic.safetensors``.

On validation videos of ``shapes-v0-medium`` (639 queries, 6 random windows each) it prefers a box on the object to one
on another object of the video in 55 % of the pairs by max Q (Eq. 11 as printed), 82 % by ``signed_q`` and 85 % by
``q_error``; to a box of its size in an empty place in 84, 91 and 91 %. Trained on GT boxes instead it has 56, 83 and
85 %, and 85, 91 and 91 %.
"""

from __future__ import annotations

import argparse
from itertools import pairwise

import torch
from torch import nn

from strong_envs import features
from strong_envs.agents.inference import WEIGHTS
from strong_envs.agents.ranges import check_value
from strong_envs.agents.strong.agent import Strong, random_boxes
from strong_envs.agents.strong.cell_attention.attention import AttendedFeatures
from strong_envs.agents.training.networks import Standardise
from strong_envs.features.errors import DataError
from strong_envs.features.files.atomic import replaced_file
from strong_envs.features.files.errors import check_output
from strong_envs.local_features import LocalFeatures
from strong_envs.spatial import reference_critic
from strong_envs.temporal.task import TemporalConfig, TemporalTask

HIDDEN = 160


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``train-reference-critic`` command."""
    summary = "Train the critic that ships with the default world, in about two minutes."
    parser = subparsers.add_parser("train-reference-critic", help=summary, description=summary)
    parser.add_argument("--features", default="shapes-v0-full", help="a key or path (%(default)s)")
    parser.add_argument("--updates", type=int, default=3000, help="updates of 512 windows (%(default)s)")
    parser.add_argument("--out", default=str(reference_critic.PATH), help="file to write")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Train and write the critic."""
    from safetensors.torch import save_file
    from tqdm import tqdm  # type: ignore[import-untyped]

    check_value("updates", args.updates, int)
    target = check_output(args.out, "file")
    torch.manual_seed(0)
    bank = features.load(args.features, "train")
    generator = torch.Generator().manual_seed(0)
    # No GT boxes: those that the shipped system has found by its rewards alone.
    system = Strong.load(str(WEIGHTS), bank)
    if system.cell_attention is None:
        raise DataError(f"{WEIGHTS} has no attention over cells; strong-envs train-pretrained makes it again")
    found = AttendedFeatures(bank, system.cell_attention).peaks
    lengths = bank.n_frames[bank.video]
    still = random_boxes(len(bank), generator).repeat_interleave(lengths, 0)
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand_as(still)
    kind = torch.rand(len(bank), generator=generator).repeat_interleave(lengths)[:, None]
    mixed = torch.where(kind < 0.5, found, torch.where(kind < 0.9, still, whole))
    task = TemporalTask(bank, LocalFeatures(bank, mixed), TemporalConfig())

    def draw(count: int) -> tuple[torch.Tensor, ...]:
        state = task.random_states(count, generator)
        return state["sample"], state["start"], state["end"]

    def observe(samples: torch.Tensor, start: torch.Tensor, end: torch.Tensor) -> dict[str, torch.Tensor]:
        return task.observe(samples, start, end, torch.zeros_like(samples))

    inputs = Standardise(task.dims())
    inputs.fit(observe(*draw(5000)))
    sizes = (inputs.size, HIDDEN, HIDDEN, task.n_actions)
    layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    net = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=args.updates)
    bar = tqdm(range(args.updates), "reference critic")
    for _ in bar:
        where = draw(512)
        loss = nn.functional.mse_loss(net(inputs(observe(*where))), task.move_rewards(*where))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        bar.set_postfix(loss=f"{float(loss.detach()):.3f}", refresh=False)
    weights: dict[str, torch.Tensor] = {"shift": inputs.shift, "scale": inputs.scale}
    for i, layer in enumerate(layers):
        weights |= {f"w{i}": layer.weight.detach().contiguous(), f"b{i}": layer.bias.detach()}
    with replaced_file(target) as staging:
        save_file(weights, str(staging), {"backbone": bank.store.manifest["backbone"]["name"]})
    print(f"{target}: {target.stat().st_size / 1024:.0f} KiB")
    return 0
