"""A folder of converted graphs.

    ENGINE/KEY/graph.xml  graph.bin  points.json       the graph, its weights in float32, the points of its signal

KEY is a SHA-256 of the weights, the settings, and the versions of the packages that convert.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from tether.errors import TetherError
from tether.files.atomic import atomic_write
from tether.files.hashing import hash_modules
from tether.files.versions import version_of

__all__ = ["Cache", "cache_folder", "weights_mark"]

FORMAT = 1
"""Of what is kept; a change makes older entries unused."""
PACKAGES = ("openvino", "torch", "diffusers", "tether-control")


def cache_folder() -> Path:
    """`TETHER_CACHE`, or `tether` in `XDG_CACHE_HOME` or `~/.cache`."""
    own = os.environ.get("TETHER_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "tether"


class Cache:
    """The converted graphs of an engine.

    Args:
        engine: its name, that of a folder.
        folder: instead of `cache_folder()`.
    """

    def __init__(self, engine: str, folder: Path | None = None) -> None:
        self.folder = (folder or cache_folder()) / engine
        self._hashes: WeakKeyDictionary[nn.Module, tuple[int, str]] = WeakKeyDictionary()

    def get(
        self,
        core: Any,
        owner: nn.Module,
        settings: Mapping[str, Any],
        convert: Callable[[], tuple[Any, tuple[str, ...]]],
    ) -> tuple[Any, tuple[str, ...]]:
        """A graph and the points of its signal, from the cache, or converted and put there.

        A cache that cannot be written, or read, costs the conversion alone.

        Args:
            core: OpenVINO's.
            owner: the network; its weights are part of the key.
            settings: what else the graph depends on, for JSON.
            convert: makes it.
        """
        entry = self.folder / self.key(owner, settings)
        try:
            points = json.loads((entry / "points.json").read_text())
            return core.read_model(str(entry / "graph.xml")), tuple(points)
        except (OSError, ValueError, RuntimeError):
            pass  # not there, or damaged: made again
        model, points = convert()
        try:
            with atomic_write(entry, parents=True) as part:
                part.mkdir()
                _save(model, part / "graph.xml")
                (part / "points.json").write_text(json.dumps(points))
            # What was converted shares memory with PyTorch's weights; what is read is mapped from the file.
            return core.read_model(str(entry / "graph.xml")), tuple(points)
        except (OSError, RuntimeError, TetherError):  # a full disk, a read-only home: the graph in memory serves
            return model, tuple(points)

    def key(self, owner: nn.Module, settings: Mapping[str, Any]) -> str:
        """The name of an entry."""
        mark = weights_mark(owner)
        if self._hashes.get(owner, (None, ""))[0] != mark:
            self._hashes[owner] = mark, hash_modules({"": owner})
        content = {
            "format": FORMAT,
            "weights": self._hashes[owner][1],
            "settings": dict(settings),
            "versions": {name: version_of(name) for name in PACKAGES},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def weights_mark(network: nn.Module) -> int:
    """A number that changes when a tensor of a network is replaced or written to; it costs no look at the values."""
    tensors = (*network.parameters(), *network.buffers())
    return hash(tuple((tensor.data_ptr(), tensor._version, tensor.dtype) for tensor in tensors))


def _save(model: Any, path: Path) -> None:
    openvino: Any = import_module("openvino")
    openvino.save_model(model, str(path), compress_to_fp16=False)
