"""Files of clips by what a list calls them."""

from __future__ import annotations

from pathlib import Path

from strong_envs.features.datasets.parsing import VIDEO_SUFFIXES, strip_video_suffix

LIST_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".ndjson")
"""Of files that list clips, and are none."""


class FileFinder:
    """Files of clips by what a list calls them: a path, a name, or an id with or without a suffix.

    Folders are searched once, when the first clip is not found at the path that its row names.
    """

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder, self.base = folder, base
        self._by_name: dict[str, Path | None] | None = None

    def find(self, file: str | None, clip_id: str) -> Path | None:
        """The file of a clip, or None."""
        for name in (file, file.replace("\\", "/") if file and "\\" in file else None, clip_id):
            if not name or "\0" in name:
                continue
            for root in (self.folder, self.base):
                path = root / name
                try:
                    if path.is_file() and path.suffix.lower() not in LIST_SUFFIXES:
                        return path
                except OSError:
                    continue
        return self._named(file, clip_id)

    def several(self, file: str | None, clip_id: str) -> bool:
        """Whether a clip that was not found has the name of several files."""
        names = {} if self._by_name is None else self._by_name
        return any(called and names.get(_last(called), called) is None for called in (file, clip_id))

    def _named(self, file: str | None, clip_id: str) -> Path | None:
        if self._by_name is None:
            self._by_name = {}
            for path in sorted(self.folder.rglob("*")):
                if path.suffix.lower() in VIDEO_SUFFIXES:
                    for name in {path.name, path.stem, path.name.lower()}:
                        # Two files of one name in two folders name no clip.
                        self._by_name[name] = None if name in self._by_name else path
        for called in (file, clip_id):
            if called:
                last = _last(called)
                for key in (last, strip_video_suffix(last), last.lower()):
                    if (found := self._by_name.get(key)) is not None:
                        return found
        return None


def _last(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]
