"""Kills a build or a cache at every moment at which a file is renamed into place, continues it, and compares the bytes.

    python killed.py build SOURCE OUT [TINY_BASE]
    python killed.py cache DATASET OUT TINY_BASE

Each run is a fork of this process, which has imported everything and computed nothing. Prints {"moments": how many,
"unlike": moments after which the finished folder differed from that of an uninterrupted run}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from tether.base import load_base
from tether.datasets.build import build_dataset
from tether.datasets.latents.cache import build_cache, plan_cache
from tether.files.hashing import hash_file


def forked(work: Callable[[], object]) -> int:
    """The signal that ended a fork of this process, 0 when it ended well."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("a run failed")
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def kill_at(moment: int) -> None:
    """Arms `os.replace`: kills this process at half a file (even moments) or right after a rename (odd ones)."""
    replace, calls = os.replace, iter(range(10**6))

    def armed(part: Path, path: Path) -> None:
        call = next(calls)
        if 2 * call == moment:
            os.truncate(part, Path(part).stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        replace(part, path)
        if 2 * call + 1 == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = armed


def hashes(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hash_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def main() -> None:
    torch.set_num_threads(1)
    what, source, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    base = load_base(sys.argv[4]) if what == "cache" else None

    def run(folder: Path) -> None:
        if base is None:
            build_dataset(source, folder, "canny", shard_size=4, workers=0)
        else:
            build_cache(plan_cache(source, base, folder, resolution=64, crops=2), batch_size=3)

    forked(lambda: run(out / "reference"))
    expected = hashes(out / "reference")
    unlike, moment = [], 0
    while True:
        folder = out / str(moment)
        ended = forked(lambda moment=moment, folder=folder: (kill_at(moment), run(folder)))
        if ended == 0:
            break
        forked(lambda folder=folder: run(folder))
        if hashes(folder) != expected:
            unlike.append(moment)
        moment += 1
    print(json.dumps({"moments": moment, "unlike": unlike, "files": sorted(expected)}))


if __name__ == "__main__":
    main()
