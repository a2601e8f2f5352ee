"""``strong-envs device``: what this project does on an accelerator, measured in one run of a few minutes.

The work is done in stages. The result file is written after each, so that an interrupted run has what it measured, and
the same command goes on with the stages that are missing. Without an accelerator the same stages run on the processor;
the numbers are then those of a processor, and the file says so.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from strong_envs import agents, features
from strong_envs.agents.inference import WEIGHTS, load_system
from strong_envs.benchmarks.execution import provenance
from strong_envs.benchmarks.metrics.score import score
from strong_envs.features import FeatureBank
from strong_envs.features.devices import usable_device
from strong_envs.features.errors import DataError
from strong_envs.features.files.atomic import write_text
from strong_envs.features.files.errors import check_output
from strong_envs.features.files.untrusted_json import parse_json
from strong_envs.spatial.env import SpatialTrackVectorEnv
from strong_envs.temporal.env import TemporalMomentVectorEnv

SYNCS = ("aten::_local_scalar_dense", "cudaStreamSynchronize", "cudaDeviceSynchronize")
"""Events of the profiler at which the host waits for numbers of the device."""
ENVS = (64, 1024, 16_384, 65_536)
TOLERANCE = 1e-4
"""Largest difference of an observation between the device and the processor; rewards and flags are equal."""
LEARNT = 1e-2
"""Largest difference of a value after ten updates that are recorded and ten that are not: sums in another order."""
FORMAT = 1


@dataclass(frozen=True)
class Setting:
    """What every stage is given.

    Attributes:
        device: where it runs. quick: tiny sizes. folder: for scratch files.
    """

    device: torch.device
    quick: bool
    folder: Path

    @property
    def build(self) -> str:
        """The build of the default data set that systems are trained on."""
        return "shapes-v0" if self.quick else "shapes-v0-full"

    def bank(self, build: str, split: str, device: torch.device | str | None = None, **options: Any) -> FeatureBank:
        """A split on the device, or on another one."""
        return features.load(build, split, device=self.device if device is None else device, **options)


@contextmanager
def seconds_of(device: torch.device) -> Iterator[Callable[[], float]]:
    """A clock that waits for the device before it is read."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    wait()
    began, end = time.perf_counter(), None

    def read() -> float:
        nonlocal end
        if end is None:
            wait()
            end = time.perf_counter() - began
        return end

    yield read
    read()


def temporal(bank: FeatureBank, count: int) -> TemporalMomentVectorEnv:
    """The environment with observations that stay on the device of its bank."""
    return TemporalMomentVectorEnv(
        count, bank, output="torch", info="light", copy=False, autoreset_mode=AutoresetMode.SAME_STEP
    )


def spatial(bank: FeatureBank, count: int) -> SpatialTrackVectorEnv:
    """The spatial environment, paid by its own overlap, so that no critic takes part."""
    return SpatialTrackVectorEnv(count, bank, output="torch", reward="box_iou", autoreset_mode=AutoresetMode.SAME_STEP)


MAKERS: dict[str, Callable[[FeatureBank, int], Any]] = {"TemporalMoment-v0": temporal, "SpatialTrack-v0": spatial}


def same_as_processor(setting: Setting) -> dict[str, Any]:
    """Random rollouts on the device and on the processor: rewards and flags must be equal.

    Raises:
        DataError: they are not.
    """
    found: dict[str, Any] = {}
    count, steps = (8, 4) if setting.quick else (256, 40)
    for name, make in MAKERS.items():
        ours, theirs = (make(setting.bank("shapes-v0", "train", device), count) for device in (None, "cpu"))
        largest = gap(ours.reset(seed=0)[0], theirs.reset(seed=0)[0])
        rng = np.random.default_rng(0)
        for _ in range(steps):
            action = torch.as_tensor(rng.integers(0, ours.single_action_space.n, count))
            mine, other = ours.step(action.to(setting.device)), theirs.step(action)
            for one, two in zip(mine[1:4], other[1:4], strict=True):
                if not torch.equal(torch.as_tensor(one).cpu(), torch.as_tensor(two).cpu()):
                    raise DataError(f"{name} on {setting.device} pays or ends otherwise than on the processor")
            largest = max(largest, gap(mine[0], other[0]))
        if not largest <= TOLERANCE:
            raise DataError(f"observations of {name} on {setting.device} differ from the processor's by {largest:.1e}")
        found[name] = {"steps": steps * count, "largest difference of an observation": largest}
    return found | {"STRONG": same_updates(setting)}


def same_updates(setting: Setting, updates: int = 10) -> dict[str, Any]:
    """The values of STRONG's temporal level after the same updates: recorded as a graph, not recorded, and on the CPU.

    Raises:
        DataError: a recorded update learns otherwise than one that is not.
    """
    values = {}
    for name, device, capture in (("recorded", None, True), ("device", None, False), ("processor", "cpu", False)):
        system, trained = prepared(setting.bank("shapes-v0", "train", device), capture)
        for _ in range(updates):
            trained._update()
        samples = torch.arange(64, device=system.bank.device)
        observed = system.task.observe(samples, *system.task.initial(samples), torch.zeros_like(samples))
        values[name] = system.temporal.q_values(observed).cpu().double()
    gaps = {name: float((values["recorded"] - values[name]).abs().max()) for name in ("device", "processor")}
    if not gaps["device"] <= LEARNT:
        raise DataError(f"a recorded update learns otherwise: values differ by {gaps['device']:.1e}")
    return {"updates": updates, "largest difference of a value": gaps}


def prepared(bank: FeatureBank, capture: bool) -> tuple[Any, Any]:
    """A new STRONG, and a training of its temporal level after its first episodes."""
    from strong_envs.agents.strong.cell_attention.training import CellAttentionTraining

    system: Any = agents.make("strong", bank, seed=0, cells={"capture": capture})
    trained = CellAttentionTraining(system.temporal, system.task, 10_000)
    for _ in range(2):
        trained.advance()
    system.temporal.set_progress(0.1)
    return system, trained


def gap(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference of two observations."""
    return max(float((part.cpu().double() - other[name].cpu().double()).abs().max()) for name, part in one.items())


def waits_of(step: Callable[[], Any], times: int) -> float:
    """How often the host waits for the device in one call of ``step``, by the profiler."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
    with profile(activities=activities) as seen:
        for _ in range(times):
            step()
    return sum(event.count for event in seen.key_averages() if event.key in SYNCS) / times


def steps_per_second(setting: Setting) -> dict[str, Any]:
    """Steps a second over numbers of environments, on the device and on the processor, and waits in a step."""
    found: dict[str, Any] = {}
    build = "shapes-v0" if setting.quick else "shapes-v0-medium"
    for name, make in MAKERS.items():
        rows = []
        for count in (8, 16) if setting.quick else ENVS:
            row: dict[str, Any] = {"envs": count}
            for where, device in (("device", setting.device), ("processor", torch.device("cpu"))):
                env = make(setting.bank(build, "train", device), count)
                env.reset(seed=0)
                generator = torch.Generator(device=device).manual_seed(0)
                actions = torch.randint(
                    0, int(env.single_action_space.n), (8, count), generator=generator, device=device
                )
                env.step(actions[0])
                blocks = []
                for _ in range(3):
                    with seconds_of(device) as taken:
                        for action in actions:
                            env.step(action)
                    blocks.append(taken())
                row[f"{where}, steps/s"] = len(actions) * count / sorted(blocks)[1]
                if where == "device":
                    row["waits a step"] = waits_of(lambda env=env, action=actions[0]: env.step(action), 4)  # type: ignore[misc]
            row["ratio"] = row["device, steps/s"] / row["processor, steps/s"]
            rows.append(row)
        found[name] = rows
    return found


def precision(setting: Setting) -> dict[str, Any]:
    """Validation mIoU of the shipped system with features in float32 and float16, and seconds of its answers."""
    rows: list[dict[str, Any]] = []
    for dtype in ("float32", "float16"):
        for tf32 in (False, True) if setting.device.type == "cuda" else (False,):
            before = torch.backends.cuda.matmul.allow_tf32
            torch.backends.cuda.matmul.allow_tf32 = tf32
            try:
                bank = setting.bank("shapes-v0" if setting.quick else "shapes-v0-medium", "val", dtype=dtype)
                system = load_system(WEIGHTS, bank)
                with seconds_of(setting.device) as taken:
                    prediction = system.predict(bank.masked())
                iou = float(np.mean(score(prediction, bank)["IoU"]))
            finally:
                torch.backends.cuda.matmul.allow_tf32 = before
            rows.append({"features": dtype, "tf32": tf32, "mIoU": iou, "queries/s": len(bank) / taken()})
    return {"rows": rows, "spread of mIoU": max(r["mIoU"] for r in rows) - min(r["mIoU"] for r in rows)}


def training(setting: Setting) -> dict[str, Any]:
    """STRONG trained from start to end: seconds and validation mIoU of every stage."""
    bank, val = setting.bank(setting.build, "train"), setting.bank(setting.build, "val")
    with seconds_of(setting.device) as taken:
        system = agents.make("strong", bank, seed=0, budget=0.002 if setting.quick else 1.0)

        def judged(system: Any, stage: str) -> dict[str, float]:
            iou = float(np.mean(score(system.predict(val.masked()), val)["IoU"]))
            print(f"{stage}: mIoU {iou:.3f}", file=sys.stderr)
            return {"mIoU": iou}

        system.fit(evaluate=judged)
    return {"data": setting.build, "seconds": taken(), "stages": system.history}


def updates(setting: Setting) -> dict[str, Any]:
    """Milliseconds and waits of one update of the temporal level with its attention, recorded as a graph and not."""
    rows, times = [], 5 if setting.quick else 100
    bank = setting.bank("shapes-v0" if setting.quick else "shapes-v0-medium", "train")
    for capture in (False, True):
        _, trained = prepared(bank, capture)
        for _ in range(10):
            trained._update()
        with seconds_of(setting.device) as taken:
            for _ in range(times):
                trained._update()
        rows.append({"recorded": trained.captured, "ms": 1e3 * taken() / times, "waits": waits_of(trained._update, 4)})
    return {"rows": rows}


def extraction(setting: Setting) -> dict[str, Any]:
    """Frames a second from video files to features with one and more workers, on drawn files."""
    from strong_envs.benchmarks.cli import main as run

    frames, files = (20, 2) if setting.quick else (400, 8)
    folder = setting.folder / "videos"
    annotations = draw_videos(folder, files, frames)
    backbone = "colour-cells" if setting.quick or not installed("efficientnet_lite_pytorch") else "efficientnet-lite0"
    rows = []
    for workers in (1,) if setting.quick else (1, 2, 4, 8):
        out = setting.folder / f"store-{workers}"
        words = ["extract", str(folder), "--annotations", str(annotations), "--out", str(out), "--fps", "12.5"]
        words += ["--backbone", backbone, "--text", "hashed-words", "--workers", str(workers), "--json"]
        words += ["--device", str(setting.device), "--grid"]
        began = time.perf_counter()
        with redirected():
            code = run(words)
        if code:
            raise DataError(f"strong-envs {' '.join(words)} ended with code {code}")
        rows.append({"workers": workers, "frames/s": files * frames / (time.perf_counter() - began)})
    return {"backbone": backbone, "frames": files * frames, "rows": rows}


@contextmanager
def redirected() -> Iterator[None]:
    """Send what a command prints to standard error."""
    import contextlib

    with contextlib.redirect_stdout(sys.stderr):
        yield


def installed(package: str) -> bool:
    """Whether a package can be imported."""
    from importlib.util import find_spec

    return find_spec(package) is not None


def draw_videos(folder: Path, files: int, frames: int) -> Path:
    """Files of moving squares with annotations in the project's format; returns the annotations' path."""
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for k in range(files):
        path = folder / f"v{k}.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12.5, (320, 240))
        for n in range(frames):
            image = np.full((240, 320, 3), 40 + 20 * k, np.uint8)
            x = (7 * n + 31 * k) % 260
            cv2.rectangle(image, (x, 80), (x + 60, 140), (255, 255 - n % 200, n % 200), -1)
            writer.write(image)
        writer.release()
        duration = frames / 12.5
        for part, share in (("train", 0.5), ("test", 0.25)):
            lines.append(
                {
                    "qid": f"{k}-{part}",
                    "vid": f"v{k}",
                    "duration": duration,
                    "query": f"square {k} moves",
                    "relevant_windows": [[0.0, duration * share]],
                    "split": part,
                }
            )
    return write_annotations(folder.parent / "squares.jsonl", lines)


def write_annotations(path: Path, lines: list[dict[str, Any]]) -> Path:
    """One JSON object a line."""
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
    return path


STAGES: dict[str, Callable[[Setting], dict[str, Any]]] = {
    "same as processor": same_as_processor,
    "steps": steps_per_second,
    "updates": updates,
    "precision": precision,
    "extraction": extraction,
    "training": training,
}
"""In the order of their worth: the longest comes last."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``device`` command to ``strong-envs``."""
    parser = subparsers.add_parser(
        "device",
        help="equality, speed, waits, precision and training on an accelerator",
        description="Measure this project on an accelerator, in stages: equality with the processor, steps a second "
        "and waits of the host, updates, precision, extraction, and STRONG trained from start to end. The file is "
        "written after every stage; the same command goes on where it stopped.",
    )
    parser.add_argument("--device", default="auto", help="torch device (default: cuda where there is one, else cpu)")
    parser.add_argument("--stages", metavar="NAMES", help=f"comma-separated, of {', '.join(STAGES)} (default: all)")
    parser.add_argument("--out", type=Path, default=Path("device.json"), metavar="FILE", help="result file")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, a trial whose numbers mean nothing")
    parser.add_argument("--json", action="store_true", help="print the file")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; exit code 2 for unusable arguments, 1 where a stage fails."""
    name = args.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device, wanted = usable_device(name), list(STAGES) if args.stages is None else args.stages.split(",")
    for stage in wanted:
        if stage not in STAGES:
            raise DataError(f"no stage is called {stage!r}; the stages are {', '.join(STAGES)}")
    check_output(args.out.parent)
    facts: dict[str, Any] = {"format": FORMAT, "device": str(device), "machine": provenance.machine(str(device))}
    facts |= {"versions": provenance.versions(), "quick": args.quick}
    result: dict[str, Any] = facts | {
        "stages": kept(args.out, facts),
        "command": " ".join(["strong-envs", *sys.argv[1:]]),
    }
    failed = False
    for stage in wanted:
        if stage in result["stages"]:
            print(f"{stage}: measured before", file=sys.stderr)
            continue
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = STAGES[stage](Setting(device, args.quick, Path(folder)))
            except (DataError, RuntimeError) as error:
                print(f"{stage} failed: {error}", file=sys.stderr)
                failed = True
                continue
        result["stages"][stage] = found | {"seconds of the stage": time.perf_counter() - began}
        write_text(args.out, json.dumps(result, indent=1) + "\n")
        print(f"{stage}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    print(json.dumps(result, indent=1) if args.json else shown(result))
    return int(failed)


def kept(path: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Stages of an earlier run on the same machine with the same versions and sizes; none of another one."""
    if not path.exists():
        return {}
    held = parse_json(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(held, dict) or not isinstance(held.get("stages"), dict):
        raise DataError(f"{path} is no result of strong-envs device; give --out another name")
    same = all(held.get(key) == value for key, value in facts.items())
    if not same:
        raise DataError(f"{path} is of another machine, other versions or other sizes; give --out another name")
    return dict(held["stages"])


def shown(result: dict[str, Any]) -> str:
    """The numbers in a few lines."""
    machine = result["machine"]
    lines = [f"{machine.get('accelerator', machine['processor'])}, torch {result['versions']['torch']}"]
    stages = result["stages"]
    for name, rows in stages.get("steps", {}).items():
        for row in rows if isinstance(rows, list) else ():
            lines.append(
                f"{name}, {row['envs']:,} environments: {row['device, steps/s']:,.0f} steps/s, "
                f"{row['ratio']:.1f} times the processor, {row['waits a step']:g} waits a step"
            )
    for row in stages.get("updates", {}).get("rows", ()):
        how = "recorded" if row["recorded"] else "not recorded"
        lines.append(f"an update of STRONG, {how}: {row['ms']:.1f} ms, {row['waits']:g} waits")
    for row in stages.get("precision", {}).get("rows", ()):
        how = f"{row['features']}, tf32 {row['tf32']}"
        lines.append(f"{how}: mIoU {row['mIoU']:.4f}, {row['queries/s']:,.0f} queries/s")
    for row in stages.get("extraction", {}).get("rows", ()):
        lines.append(f"extraction, {row['workers']} workers: {row['frames/s']:,.0f} frames/s")
    if "training" in stages:
        done = stages["training"]
        lines.append(f"STRONG on {done['data']}: {done['seconds']:.0f} s, mIoU {done['stages'][-1]['mIoU']:.3f}")
    return "\n".join(lines)
