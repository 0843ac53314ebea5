"""`tether train` from a folder of pictures, killed in every phase of its work, ends with the bits of one left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tether.files.hashing import hash_file

PICTURES, STEPS, KILLS, SHARE = 24, 12, 20, 3
PHASES = ("cache", "step", "checkpoint")


def pictures(folder: Path) -> Path:
    folder.mkdir()
    for number in range(PICTURES):
        blocks = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(16, axis=0).repeat(16, axis=1)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"blocks {number}")
    return folder


def start(source: Path, base: Path, out: Path) -> subprocess.Popen[bytes]:
    flags = f"--data {source} --base {base} --condition canny --steps {STEPS} --batch-size 4 --checkpoint-every 1"
    small = (
        "trackers=[]",
        "checkpoint_minutes=1000",
        "validation_every=0",
        "workers=0",
        "resolution=64",
        "precision=no",
        "device=cpu",
    )
    more = [part for setting in small for part in ("--set", setting)]
    command = [sys.executable, "-m", "tether", "train", *flags.split(), *more, "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def phase(out: Path) -> str | None:
    """What the run in `out` is doing, by what lies there."""
    checkpoints = out / "checkpoints"
    if any(checkpoints.glob(".*.part")):
        return "checkpoint"
    if any(checkpoints.glob("step-*")):
        return "step"
    return "cache" if (out / "cache").exists() else None


def results(out: Path) -> dict[str, str]:
    """Hashes of the control and of the last checkpoint's tensors."""
    files = [*(out / "control").iterdir(), *(out / "checkpoints" / f"step-{STEPS:08d}").glob("*.safetensors")]
    return {path.name: hash_file(path) for path in files}


@pytest.mark.slow
def test_a_command_killed_twenty_times_ends_with_the_bits_of_one_left_alone(tiny_folder: Path, tmp_path: Path) -> None:
    source, rng, hit = pictures(tmp_path / "pictures"), random.Random(0), Counter[str]()
    whole = start(source, tiny_folder, tmp_path / "whole")
    assert whole.wait() == 0, whole.stderr and whole.stderr.read()
    runs, out, attempt = 0, tmp_path / "killed-0", 0
    # Chance may miss a phase that is short: it goes on until each has had its share.
    while hit.total() < KILLS or min(hit[name] for name in PHASES) < SHARE:
        assert attempt < 5 * KILLS, hit
        wanted = PHASES[attempt % len(PHASES)]
        attempt += 1
        run = start(source, tiny_folder, out)
        while run.poll() is None and phase(out) != wanted:
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.1))
        seen = phase(out)
        run.send_signal(signal.SIGKILL)
        killed = run.wait() == -signal.SIGKILL
        if killed and seen:
            hit[seen] += 1
        if not killed or attempt % len(PHASES) == 0:  # a phase that is over comes again only in a new run
            assert start(source, tiny_folder, out).wait() == 0
            assert results(out) == results(tmp_path / "whole")
            runs += 1
            out = tmp_path / f"killed-{runs}"
    assert runs >= 1
