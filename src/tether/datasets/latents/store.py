"""Tensors that were computed on demand, kept on disk so that no run computes them twice.

    FOLDER/part-PROCESS.bin ...     records: key (16 bytes), length, CRC-32, and a safetensors file

A process appends to a file of its own, so any number of processes may share a folder, and each finds what the others
put there meanwhile, within a second. A record that a killed process left incomplete ends its file. What cannot be
written is only computed again. A reserve of the disk is left to others: a run must be able to write its checkpoints.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
import struct
import zlib
from pathlib import Path
from threading import Lock
from time import monotonic

from safetensors.torch import load, save
from torch import Tensor

__all__ = ["Store"]

logger = logging.getLogger(__name__)

_HEADER = struct.Struct("<16sQI")
_SECONDS = 1.0
"""The least time between two looks for what other processes wrote: each reads the folder."""


class Store:
    """Tensors by name, in a folder. Threads may share it.

    Args:
        folder: the folder.
        reserve: bytes of its disk that are left free.
    """

    def __init__(self, folder: Path, reserve: int = 0) -> None:
        self.folder, self.reserve = folder, reserve
        self._places: dict[bytes, tuple[Path, int]] = {}
        self._scanned: dict[Path, int] = {}
        self._sizes: dict[Path, int] = {}
        self._next_scan = 0.0
        self._lock = Lock()
        self._own = folder / f"part-{os.getpid()}-{secrets.token_hex(8)}.bin"
        self._writable = True
        self._scan()

    def __len__(self) -> int:
        return len(self._places)

    def get(self, name: str) -> dict[str, Tensor] | None:
        """What was put under a name; None if nothing was, or it is damaged."""
        key = _key(name)
        if key not in self._places:
            with self._lock:
                if monotonic() >= self._next_scan:
                    self._scan()  # another process may have put it there meanwhile
        place = self._places.get(key)
        if place is None:
            return None
        path, start = place
        try:
            with path.open("rb") as file:
                file.seek(start)
                _, length, checksum = _HEADER.unpack(file.read(_HEADER.size))
                data = file.read(length)
        except (OSError, struct.error):
            return None
        return load(data) if len(data) == length and zlib.crc32(data) == checksum else None

    def put(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Keeps tensors under a name, if the disk lets it."""
        data = save({key: tensor.contiguous() for key, tensor in tensors.items()})
        key = _key(name)
        with self._lock:
            if not self._writable:
                return
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                free = shutil.disk_usage(self.folder).free
                if free < self.reserve + len(data):
                    raise OSError(f"{free / 1e9:.1f} GB are free, and {self.reserve / 1e9:.1f} GB are for checkpoints")
                with self._own.open("ab") as file:
                    start = file.tell()
                    file.write(_HEADER.pack(key, len(data), zlib.crc32(data)) + data)
            except OSError as error:
                self._writable = False
                logger.warning("%s cannot be written (%s): what is encoded from now on is not kept", self._own, error)
                return
            self._places[key] = (self._own, start)

    def _scan(self) -> None:
        """Finds the whole records of all files but its own that were not there before."""
        for path in sorted(self.folder.glob("part-*.bin")):
            if path != self._own:
                self._scan_file(path)
        self._next_scan = monotonic() + _SECONDS

    def _scan_file(self, path: Path) -> None:
        start = self._scanned.get(path, 0)
        try:
            size = path.stat().st_size
            if size == self._sizes.get(path, 0):
                return
            with path.open("rb") as file:
                file.seek(start)
                while len(header := file.read(_HEADER.size)) == _HEADER.size:
                    key, length, _ = _HEADER.unpack(header)
                    end = start + _HEADER.size + length
                    if end > size:
                        break
                    self._places[key] = (path, start)
                    self._scanned[path] = start = end
                    file.seek(start)
            self._sizes[path] = size
        except OSError:
            return


def _key(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
