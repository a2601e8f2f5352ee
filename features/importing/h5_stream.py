"""One array after the other from an HDF5 file of unknown origin. Nothing outside of the file is ever read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from strong_envs.features.datasets.parsing import check_file, show
from strong_envs.features.errors import DataError
from strong_envs.features.importing.untrusted_arrays import check_numeric, check_size

H5_SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5")
MAX_SPLIT_GROUPS = 16
"""Groups at the root of a file, up to this number, may hold the videos of a split each."""


class H5Stream:
    """A read-only HDF5 file of features, keyed by id: ``file[id]`` or ``file[id][key]`` is an array.

    Attributes: ``keys`` names at the root, or ``group/name`` where the root has a group for each split; ``unreadable``
    names that are not text.

    Args:
        path: of the file.
        key: name of the array in a group, with ``/`` between groups.

    Raises:
        DataError: h5py is not installed, or it cannot read the file.
    """

    def __init__(self, path: str | os.PathLike, key: str) -> None:
        try:
            import h5py  # type: ignore[import-untyped]
        except ImportError:
            raise DataError("reading h5 files needs h5py: pip install strong-envs[h5]") from None
        self.name, self._key, self._h5py = Path(path).name, key, h5py
        self.unreadable: list[str] = []
        check_file(path, 2**50)
        try:
            self._file = h5py.File(os.fspath(path), "r")
            self.keys = self._list()
        except Exception as error:  # h5py raises OSError, RuntimeError, KeyError and more on broken files
            raise DataError(f"{str(path)!r} is not a readable HDF5 file: {str(error)[:200]}") from None

    def read(self, name: str) -> np.ndarray:
        """The array stored under one id. Links, virtual data sets and data in other files are not followed."""
        where = f"{self.name}[{name}]"
        try:
            node = self._resolve(self._file, name, where)
            if isinstance(node, self._h5py.Group):
                if self._key.split("/")[0] in node:
                    node = self._resolve(node, self._key, f"{where}/{self._key}")
                elif len(node) == 1:
                    node = self._child(node, self._names(node)[0], where)
                else:
                    raise DataError(f"{where} is a group of {show(self._names(node)[:8])}; pass key= with one of them")
            if not isinstance(node, self._h5py.Dataset) or node.is_virtual or node.external:
                raise DataError(f"{where} is not an array stored in this file")
            if node.shape is None:
                raise DataError(f"{where} is empty: it has no shape")
            check_numeric(node.dtype, where)
            check_size(node.shape, node.dtype, where)
            if node.id.get_storage_size() == 0:
                raise DataError(f"{where} is empty: room for {list(node.shape)} was reserved and nothing was written")
            return node[()]
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"{where} cannot be read: {type(error).__name__}: {str(error)[:200]}") from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _list(self) -> list[str]:
        names = self._names(self._file)
        if len(names) > MAX_SPLIT_GROUPS:
            return names
        found: list[str] = []
        for name in names:
            node = self._child(self._file, name, name, None)
            inside = self._names(node) if isinstance(node, self._h5py.Group) else []
            split = len(inside) > 1 and self._key.split("/")[0] not in inside
            found += [f"{name}/{one}" for one in inside] if split else [name]
        return found

    def _names(self, group: Any) -> list[str]:
        names = []
        for name in group.keys():  # noqa: SIM118 (the key may be bytes)
            if isinstance(name, str):
                names.append(name)
            else:
                self.unreadable.append(repr(name)[:80])
        return names

    def _resolve(self, group: Any, path: str, where: str) -> Any:
        """The node at a path, each part of which must be stored in this file."""
        for part in path.split("/"):
            if not isinstance(group, self._h5py.Group) or part in ("", ".", ".."):
                raise DataError(f"{where} is no path of groups in this file")
            group = self._child(group, part, where)
        return group

    def _child(self, group: Any, name: str, where: str, otherwise: Any = DataError) -> Any:
        """A member of a group that is stored in this file; links raise `DataError`, or give ``otherwise``."""
        if isinstance(group.get(name, getlink=True), self._h5py.HardLink):
            return group[name]
        if otherwise is DataError:
            raise DataError(f"{where} is a link; only arrays stored in this file are read")
        return otherwise
