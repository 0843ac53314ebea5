"""What the recipes share: where the data lies, random training pictures, optimisers, and checkpoints that resume.

What a step sees is a function of (seed, step) alone, so a run that is stopped and continued sees what it would have
seen.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tether.datasets.emoji import Drawing, caption, compose, is_held_out

DATA = Path("data")
SIZE = 128
SHARES = {"3d emoji": 0.28, "flat emoji": 0.13, "other emoji": 0.24, "scenes": 0.35}
"""How often a training sample is of which group; the first two are the drawings that VOCABULARY names."""
VOCABULARY = frozenset(
    line
    for line in (Path(__file__).parent / "vocabulary.txt").read_text().splitlines()
    if line and not line.startswith("#")
)
"""The names that are trained on most: a million samples spread over all names left every one a blob."""


@dataclass
class Picture:
    """A training picture, uint8 `(H, W, 3)` RGB, and its words."""

    pixels: np.ndarray
    caption: str


class Pictures:
    """Random pictures of the groups in the shares of `SHARES`; held-out names and scenes never appear."""

    def __init__(self, folder: Path = DATA) -> None:
        self.drawings: dict[str, list[Drawing]] = {"3d emoji": [], "flat emoji": [], "other emoji": []}
        for name in ("3d", "flat"):
            for drawing in load_drawings(folder / f"emoji-{name}.npz", tags=False):
                if not is_held_out(drawing.name):
                    group = drawing.style if drawing.name in VOCABULARY else "other emoji"
                    self.drawings[group].append(drawing)
        self.scenes: np.ndarray | None = None
        self.scene_captions: list[list[str]] = []
        path = folder / "scenes.npz"
        if path.exists():
            with np.load(path) as pack:
                self.scenes, self.scene_captions = pack["pixels"], json.loads(str(pack["captions"]))

    def draw(self, rng: np.random.Generator, size: int = SIZE) -> Picture:
        """One random picture with a random caption of it."""
        source = str(rng.choice(list(SHARES), p=list(SHARES.values())))
        if source == "scenes" and self.scenes is not None:
            index = int(rng.integers(len(self.scenes)))
            captions = self.scene_captions[index]
            return Picture(self.scenes[index], captions[int(rng.integers(len(captions)))])
        drawings = self.drawings["3d emoji" if source == "scenes" else source]
        drawing = drawings[int(rng.integers(len(drawings)))]
        pixels, background = compose(drawing, size, rng)
        return Picture(pixels, caption(drawing, background, rng))


def load_drawings(path: Path, tags: bool = True) -> list[Drawing]:
    """Reads a file that recipes/sources.py packed; without tags, the synonyms are names of the thing alone."""
    words = "synonyms" if tags else "names"
    with np.load(path) as pack:
        style = str(pack["style"])
        return [
            Drawing(entry["name"], tuple(entry[words]), style, rgba)
            for entry, rgba in zip(json.loads(str(pack["words"])), pack["rgba"], strict=True)
        ]


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 `(B, H, W, 3)` in 0..255 -> float32 `(B, 3, H, W)` in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


class Pace:
    """Iterates over a run's steps; where minutes are given, as many as fit are taken once the speed is known.

    `steps` is how many there will be; learning rates are to look at it anew in every step, and must not depend on it in
    the first `TIMED[1]` ones.
    """

    TIMED = (30, 130)
    """From which of the first steps to which the speed is taken."""

    def __init__(self, first: int, steps: int, minutes: float | None, device: torch.device) -> None:
        self.first, self.steps, self.minutes, self.device = first, steps, minutes, device
        self.started = time.time()

    def __iter__(self) -> Iterator[int]:
        step, begun = self.first, 0.0
        while step < self.steps:
            if self.minutes and step - self.first in self.TIMED:
                if self.device.type == "cuda":
                    torch.cuda.synchronize()
                now = time.time()
                if begun:
                    each = (now - begun) / (self.TIMED[1] - self.TIMED[0])
                    self.steps = step + max(1, int((self.started + 60 * self.minutes - now) / each))
                    print(f"{each:.4f} s/step: {self.steps} steps", flush=True)
                begun = now
            yield step
            step += 1

    def report(self, step: int, every: int, values: dict[str, list[Tensor]]) -> None:
        """Prints the means of what was logged in the latest `every` steps, and forgets it; at every `every`-th step."""
        if (step + 1) % every == 0:
            means = " ".join(f"{name} {torch.stack(many).mean().item():.4f}" for name, many in values.items())
            each = (time.time() - self.started) / (step + 1 - self.first)
            print(f"{step + 1} {means} {each:.3f} s/step", flush=True)
            for many in values.values():
                many.clear()


class MuonAndAdamW:
    """One optimiser of two: Muon (orthogonalised momentum) for every matrix and kernel, AdamW for all else.

    A kernel `(out, in, h, w)` is stepped as the matrix `(out, h * w * in)`, a view of its memory: `model` must lie in
    memory channels last. Muon's steps are scaled to AdamW's size, so that one learning rate serves both. Of it:
    Jordan 2024, "Muon: an optimizer for hidden layers in neural networks"; the scale: Liu et al. 2025 (2502.16982).
    """

    def __init__(self, model: nn.Module, lr: float) -> None:
        embeddings = [m for m in model.modules() if isinstance(m, nn.Embedding)]
        tables = {id(parameter) for table in embeddings for parameter in table.parameters()}
        trained = [p for p in model.parameters() if p.requires_grad]
        kernels = [p for p in trained if p.ndim > 1 and id(p) not in tables]
        others = [p for p in trained if p.ndim <= 1 or id(p) in tables]
        self.pairs = [(kernel, nn.Parameter(self._matrix(kernel.detach()))) for kernel in kernels]
        muon = torch.optim.Muon(
            [matrix for _, matrix in self.pairs], lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
        )
        adamw = torch.optim.AdamW(others, lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        self.parts = [muon, adamw]

    @staticmethod
    def _matrix(kernel: Tensor) -> Tensor:
        return (kernel.permute(0, 2, 3, 1) if kernel.ndim == 4 else kernel).flatten(1)

    def set_lr(self, lr: float) -> None:
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = lr

    def step(self) -> None:
        for kernel, matrix in self.pairs:
            assert kernel.grad is not None
            assert kernel.data_ptr() == matrix.data_ptr(), "the model was moved in memory"
            matrix.grad = self._matrix(kernel.grad)
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        for kernel, _ in self.pairs:
            kernel.grad = None
        self.parts[1].zero_grad()

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def attention(device: torch.device) -> AbstractContextManager[None]:
    """Plain attention on a CPU: on these short sequences a step takes a fifth less time than with the fused kernel."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def moving_average(model: nn.Module, decay: float = 0.999) -> torch.optim.swa_utils.AveragedModel:
    """An exponential moving average of a model's parameters; `.module` is the averaged model."""
    mean = torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
    return torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=mean, use_buffers=False)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes a training state so that `path` always holds a whole one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def load_state(path: Path) -> dict[str, Any] | None:
    """The state that `save_state` wrote, or None where there is none."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


def cosine(step: int, steps: int, warmup: int, floor: float = 0.0) -> float:
    """Learning-rate factor: linear warm-up, then half a cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return floor + (1 - floor) * 0.5 * (1 + float(np.cos(np.pi * progress)))
