"""Many processes are one run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tether.base import ControlNet


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def run_two(
    server: Any, out: Path, more: Mapping[str, str] = MappingProxyType({}), code: int = 0, **settings: Any
) -> None:
    port = str(free_port())
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"} | dict(more)
    both = [server.start(out, shared | {"RANK": str(r), "LOCAL_RANK": str(r)}, **settings) for r in range(2)]
    assert [training.wait() for training in both] == [code, code]


def test_the_command_on_two_processes_makes_a_control_and_draws_on_the_way(tiny_folder: Path, tmp_path: Path) -> None:
    """From pictures to `control/` with looks and TensorBoard's log, both processes ending well."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(8):
        picture = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(picture).save(pictures / f"{number}.png")
        (pictures / f"{number}.txt").write_text(f"picture {number}")
    out = tmp_path / "run"
    flags = f"--data {pictures} --base {tiny_folder} --condition canny --steps 2 --batch-size 1 --out {out}"
    small = ("validation_every=1", "validation_images=1", "validation_steps=1", "crops=1", "precision=no", "device=cpu")
    command = [sys.executable, "-m", "tether", "train", *flags.split(), *(p for s in small for p in ("--set", s))]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared |= {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            command,
            env=os.environ | shared | {"RANK": str(r), "LOCAL_RANK": str(r)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(2)
    ]
    told, said = zip(*(process.communicate(timeout=300) for process in both), strict=True)
    assert [process.returncode for process in both] == [0, 0], said
    assert ["finished after 2 steps" in words for words in told] == [True, False]
    assert ControlNet.load(out / "control").kind == "canny"
    assert list((out / "logs").rglob("events*"))
    assert "step 2 of 2: loss" in said[0]


@pytest.mark.parametrize("extra", [{}, {"gradient_accumulation": 2, "ema": 0.9}], ids=["plain", "accumulated"])
def test_two_processes_at_half_the_batch_have_the_losses_of_one(
    server: Any, tmp_path: Path, extra: dict[str, Any]
) -> None:
    assert server.start(tmp_path / "one", steps=10, batch_size=4, **extra).wait() == 0
    run_two(server, tmp_path / "two", steps=10, batch_size=2, **extra)
    losses = [json.loads((tmp_path / name / "losses.json").read_text()) for name in ("one", "two")]
    assert len(losses[0]) == 10
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    checkpoints = [tmp_path / name / "checkpoints" / "step-00000010" / "model.safetensors" for name in ("one", "two")]
    ours, theirs = (load_file(path) for path in checkpoints)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(theirs[name], ours[name], rtol=1e-3, atol=1e-4)


def test_two_processes_train_a_union_though_each_sees_some_of_its_kinds_only(server: Any, tmp_path: Path) -> None:
    """Of four kinds a process sees one or two a step, and no step has all."""
    union = {"condition": ["canny", "depth", "seg", "normal"], "steps": 6, "ema": 0.9}
    assert server.start(tmp_path / "one", batch_size=2, **union).wait() == 0
    run_two(server, tmp_path / "two", batch_size=1, **union)
    losses = [json.loads((tmp_path / name / "losses.json").read_text()) for name in ("one", "two")]
    assert len(losses[0]) == 6
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_run_of_two_processes_goes_on_with_one(server: Any, tmp_path: Path) -> None:
    assert server.start(tmp_path / "one", steps=8, batch_size=4).wait() == 0
    run_two(server, tmp_path / "moved", steps=4, batch_size=2)
    first = json.loads((tmp_path / "moved" / "losses.json").read_text())
    assert server.start(tmp_path / "moved", steps=8, batch_size=2, gradient_accumulation=2).wait() == 0
    rest = json.loads((tmp_path / "moved" / "losses.json").read_text())
    assert first + rest == pytest.approx(json.loads((tmp_path / "one" / "losses.json").read_text()), rel=1e-4)


def test_two_processes_that_stop_and_go_on_have_the_bits_of_two_that_do_not(server: Any, tmp_path: Path) -> None:
    run_two(server, tmp_path / "whole", steps=6, batch_size=2, ema=0.9)
    run_two(server, tmp_path / "stopped", steps=2, batch_size=2, ema=0.9)
    run_two(server, tmp_path / "stopped", steps=6, batch_size=2, ema=0.9)
    for part in ("model", "average", "optimizer"):
        ours, theirs = (
            load_file(tmp_path / name / "checkpoints" / "step-00000006" / f"{part}.safetensors")
            for name in ("whole", "stopped")
        )
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_sharded_parameters_learn_what_whole_ones_do_and_go_on_exactly(server: Any, tmp_path: Path) -> None:
    """FSDP on two processes of a CPU, stopped at step 4, against DDP without a stop."""
    settings: dict[str, Any] = {"batch_size": 2, "gradient_accumulation": 2, "ema": 0.9}
    run_two(server, tmp_path / "whole", steps=6, **settings)
    run_two(server, tmp_path / "sharded", {"TINY_FSDP": "2"}, steps=4, **settings)
    first = json.loads((tmp_path / "sharded" / "losses.json").read_text())
    run_two(server, tmp_path / "sharded", {"TINY_FSDP": "2"}, steps=6, **settings)
    rest = json.loads((tmp_path / "sharded" / "losses.json").read_text())
    assert first + rest == pytest.approx(json.loads((tmp_path / "whole" / "losses.json").read_text()), rel=1e-5)
    for part in ("model", "average", "optimizer"):
        ours, theirs = (
            load_file(tmp_path / name / "checkpoints" / "step-00000006" / f"{part}.safetensors")
            for name in ("whole", "sharded")
        )
        assert ours.keys() == theirs.keys()
        for name in ours:
            torch.testing.assert_close(theirs[name], ours[name], rtol=1e-4, atol=1e-5)


def test_the_first_fsdp_is_refused(server: Any, tmp_path: Path) -> None:
    run_two(server, tmp_path / "run", {"TINY_FSDP": "1"}, code=1, steps=2, batch_size=2)
    assert not (tmp_path / "run" / "checkpoints").exists()
