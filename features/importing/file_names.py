"""Which feature file belongs to which id, as extractors name their files: ``vid_clip.npy``, ``train/v_vid.npz``."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from strong_envs.features.datasets.parsing import strip_video_suffix
from strong_envs.features.errors import DataError

ARRAY_SUFFIXES = (".npy", ".npz")
MAX_FILES = 2_000_000
MAX_DEPTH = 4
Found = tuple[str, Path]
"""The name of an array without its file's suffix, ``/`` between folders, and the file that holds it."""


def leaves(file: Path, folder: Path) -> Path | None:
    """Where a link leads that leaves its folder; None for files that are no links, and for links inside the folder."""
    if not file.is_symlink():
        return None
    target = Path(os.path.realpath(file))
    return None if target.is_relative_to(os.path.realpath(folder)) else target


def list_arrays(folder: Path) -> list[Found]:
    """All npy and npz files of a folder and its sub-folders, sorted; hidden ones and linked folders are left out."""
    found: list[Found] = []
    base = len(folder.parts)
    for place, folders, names in os.walk(folder):
        folders[:] = (
            sorted(f for f in folders if not f.startswith(".")) if len(Path(place).parts) - base < MAX_DEPTH else []
        )
        for name in sorted(names):
            if name.lower().endswith(ARRAY_SUFFIXES) and not name.startswith("."):
                file = Path(place) / name
                found.append((file.relative_to(folder).with_suffix("").as_posix(), file))
        if len(found) > MAX_FILES:
            raise DataError(f"{str(folder)!r} holds more than {MAX_FILES:,} npy and npz files")
    return found


def _plain(name: str) -> str:
    """A name in one Unicode form: some file systems store accents as letters of their own."""
    return unicodedata.normalize("NFC", name)


class FileNames:
    """Names of arrays, and which of them belong to an id.

    A name belongs to an id in this order: without the given prefix and suffix, where it has them; as it is; without
    the suffix of a video (``s13-d21.avi.npy``) on either side. The Unicode form of accents makes no difference. The
    name in a sub-folder counts with and without the folder (``train/vid`` belongs to ``vid`` and to ``train/vid``);
    those higher up go first.

    Args:
        found: from `list_arrays`.
        prefix: what names have before the id.
        suffix: what names have after the id.
        preferred: names with the prefix and the suffix go before those without; else they count alike.
    """

    def __init__(self, found: Sequence[Found], prefix: str = "", suffix: str = "", preferred: bool = True) -> None:
        self._all = list(found)
        self.any_affixed = False
        """Whether a name has the prefix and the suffix."""
        self._table: dict[str, list[tuple[tuple[int, int], Found]]] = {}
        for one in self._all:
            folder, _, base = one[0].rpartition("/")
            depth = one[0].count("/")
            own = base.removeprefix(prefix).removesuffix(suffix)
            has = bool(prefix or suffix) and base.startswith(prefix) and base.endswith(suffix) and own != base
            spellings = [(0 if preferred else 1, own)] if has else [(1, base), (2, strip_video_suffix(base))]
            self.any_affixed |= has
            if has:
                spellings.append((2, strip_video_suffix(own)))
            elif own != base:
                spellings.append((2, own))
            for rank, name in spellings:
                for full in {name, f"{folder}/{name}" if folder else name}:
                    self._table.setdefault(_plain(full), []).append(((rank, depth), one))

    @property
    def ids(self) -> list[str]:
        """The names of all arrays, sorted, each once."""
        return sorted({name for name, _ in self._all})

    def bytes(self, items: Iterable[str]) -> int:
        """Size of the files of these ids; a link that leads nowhere counts 0 and is reported when it is read."""
        files = {file for item in items for _, file in self.find(item)}
        return sum(file.stat().st_size for file in files if file.is_file())

    @property
    def example(self) -> Path:
        """The file of the first array."""
        return self._all[0][1]

    def find(self, item: str) -> list[Found]:
        """The arrays of an id: none, one, or several that belong to it equally well."""
        for name in (item, strip_video_suffix(item)):
            known = self._table.get(_plain(name))
            if known:
                best = min(rank for rank, _ in known)
                return list(dict.fromkeys(one for rank, one in known if rank == best))
        return []

    def hint(self, items: Iterable[str]) -> str:
        """What the arrays are called, and the prefix and suffix under which they would belong to the given ids."""
        some = ", ".join(name for name, _ in self._all[:4])
        text = f"files there are named {some}{', ...' if len(self._all) > 4 else ''}"
        bases = [_plain(name.rpartition("/")[2]) for name, _ in self._all[:5000]]
        around: Counter[tuple[str, str]] = Counter()
        wanted = [_plain(strip_video_suffix(item)) for item in islice(items, 200)]
        for item in wanted:
            for base in bases:
                place = base.find(item)
                if place >= 0 and base != item:
                    around[base[:place], base[place + len(item) :]] += 1
                    break
        if around:
            (before, after), count = around.most_common(1)[0]
            if 2 * count >= len(around) and (count > 1 or len(wanted) == 1 or len(around) == 1):
                options = [f"--prefix {before}"] * bool(before) + [f"--suffix {after}"] * bool(after)
                text += f"; pass {' '.join(options)}"
        return text
