"""What the paper printed in its Tables 1 and 2, and what it claims from them. In percent, as printed.

These numbers are of another protocol than ours: windows of 64 to 512 frames cut out of each video, pairs chosen and
split at random by the authors, IoU by Eq. 4 and counted with ``>``. They only ever stand in columns of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

from strong_envs.benchmarks.protocols import Protocol

METRICS = ("Acc@.1", "Acc@.3", "Acc@.5", "Acc@.7", "Acc@.9", "mIoU")
DATA = ("Charades-STA", "TACoS")

TABLE_1: dict[str, dict[str, tuple[float, ...]]] = {
    "Charades-STA": {
        "CTRL": (81.57, 65.86, 37.87, 7.32, 0.63, 37.71),
        "MCN": (79.08, 66.87, 40.36, 6.75, 0.22, 38.84),
        "ACRN": (84.65, 68.78, 41.15, 8.96, 0.81, 40.03),
        "READ": (87.87, 71.07, 42.42, 14.85, 1.56, 43.35),
        "SM-RL": (90.86, 71.23, 44.98, 16.56, 1.61, 45.92),
        "STRONG-A": (93.39, 77.76, 49.84, 18.93, 2.02, 48.49),
        "STRONG": (94.02, 78.10, 50.14, 19.30, 2.42, 49.07),
    },
    "TACoS": {
        "CTRL": (79.25, 51.24, 34.56, 9.62, 1.34, 36.35),
        "MCN": (81.24, 48.70, 32.08, 10.58, 0.97, 36.64),
        "ACRN": (82.24, 53.89, 36.24, 11.42, 1.55, 38.05),
        "READ": (84.75, 58.11, 39.24, 14.23, 1.63, 41.31),
        "SM-RL": (87.24, 65.27, 43.27, 15.24, 2.02, 43.02),
        "STRONG-A": (90.15, 71.50, 49.26, 17.76, 3.62, 46.77),
        "STRONG": (90.85, 72.14, 49.73, 18.29, 3.91, 47.18),
    },
}
TABLE_2: dict[str, dict[str, tuple[float, ...]]] = {
    "Charades-STA": {
        "TRL": (91.35, 72.73, 45.67, 15.86, 1.46, 45.61),
        "TRL+local": (91.62, 73.32, 46.83, 16.51, 1.47, 46.31),
        "TRL+dis": (91.87, 75.22, 48.32, 17.05, 1.53, 47.01),
        "TRL+gau": (91.95, 75.31, 48.99, 17.30, 1.54, 47.34),
        "TRL+fix": (92.80, 76.62, 49.68, 18.15, 1.82, 48.10),
        "STRONG": (94.02, 78.10, 50.14, 19.30, 2.42, 49.07),
    },
    "TACoS": {
        "TRL": (87.93, 66.65, 44.65, 15.58, 2.65, 43.84),
        "TRL+local": (89.42, 66.72, 44.93, 15.63, 2.86, 44.81),
        "TRL+dis": (89.85, 68.54, 45.08, 16.01, 3.21, 45.32),
        "TRL+gau": (89.94, 68.98, 45.40, 16.04, 3.24, 45.77),
        "TRL+fix": (90.43, 70.83, 46.90, 16.56, 3.43, 46.40),
        "STRONG": (90.85, 72.14, 49.73, 18.29, 3.91, 47.18),
    },
}
TABLES = {1: TABLE_1, 2: TABLE_2}


@dataclass(frozen=True)
class Claim:
    """The paper says that system ``better`` localises better than ``worse`` (section)."""

    better: str
    worse: str
    section: str


_RL, _SLIDING = ("READ", "SM-RL", "STRONG-A"), ("CTRL", "MCN", "ACRN")
CLAIMS: dict[int, tuple[Claim, ...]] = {
    1: (
        *(Claim("STRONG", other, "4.2, observation 1") for other in (*_SLIDING, "READ", "SM-RL")),
        *(Claim(better, worse, "4.2, observation 2") for better in _RL for worse in _SLIDING),
        Claim("SM-RL", "READ", "4.2, observation 3"),
        Claim("STRONG", "STRONG-A", "4.2, observation 4"),
    ),
    2: (
        Claim("STRONG", "TRL", "4.3, observation 1"),
        *(Claim("STRONG", other, "4.3, observation 2") for other in ("TRL+local", "TRL+dis", "TRL+fix")),
        *(Claim("TRL+fix", other, "4.3, observation 3") for other in ("TRL+local", "TRL+dis", "TRL+gau")),
    ),
}


def protocol(data: str) -> Protocol:
    """How the paper measured: it can share a column with none of ours."""
    return Protocol(
        "the paper",
        data,
        train="80 % of the pairs at random" if data == "TACoS" else "9,981 pairs",
        test="20 % of the pairs at random" if data == "TACoS" else "2,572 pairs",
        window="windows of 64 to 512 frames cut from the video",
        iou="signed",
        comparison=">",
        steps=None,
        z_e=10,
    )


def rows(number: int, data: str, metrics: tuple[str, ...] = METRICS) -> list[dict]:
    """Rows of Table ``number`` for `benchmarks.results.tables`, as fractions; no seeds and no intervals were
    published.
    """
    about = protocol(data).as_dict()
    return [
        {
            "system": system,
            "protocol": about,
            "seeds": None,
            "metrics": {m: v / 100 for m, v in zip(METRICS, values, strict=True) if m in metrics},
        }
        for system, values in TABLES[number][data].items()
    ]
