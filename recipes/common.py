"""What the recipes share: where the data lies, random training pictures, and checkpoints that resume exactly.

A random picture is a function of (seed, step, place in the batch) alone, so a run that is stopped and
continued sees the very pictures that it would have seen.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tether.datasets.emoji import Drawing, caption, compose, is_held_out

DATA = Path("data")
SIZE = 128
SHARES = {"3d emoji": 0.42, "flat emoji": 0.18, "other emoji": 0.05, "scenes": 0.35}
"""How often a training sample is of which group; the first two are the drawings that VOCABULARY names."""
VOCABULARY = frozenset(
    line
    for line in (Path(__file__).parent / "vocabulary.txt").read_text().splitlines()
    if line and not line.startswith("#")
)
"""The names that a base of this size has the samples to learn: spread over all names, they leave every one a blob."""


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


def channels_last(maps: np.ndarray) -> Tensor:
    """`(B, C, h, w)` -> a float32 tensor of that shape, channels last in memory.

    By NumPy, because `Prefetch` calls it: with torch's own parallel copies in that thread a training step took 0.95 s
    in place of 0.87 s on two cores (two teams of OpenMP threads get in each other's way).
    """
    return torch.from_numpy(np.ascontiguousarray(maps.transpose(0, 2, 3, 1), np.float32)).permute(0, 3, 1, 2)


class Prefetch:
    """Calls `make(step)` for the next step in a thread while the current one trains."""

    def __init__(self, make: Any, first: int) -> None:
        self.make, self.pool = make, ThreadPoolExecutor(1)
        self.next: tuple[int, Future] = (first, self.pool.submit(make, first))

    def __call__(self, step: int) -> Any:
        ready, future = self.next
        if ready != step:
            future = self.pool.submit(self.make, step)
        self.next = (step + 1, self.pool.submit(self.make, step + 1))
        return future.result()


class MuonAndAdamW:
    """One optimiser of two: Muon (orthogonalised momentum) for every matrix and kernel, AdamW for all else.

    A kernel `(out, in, h, w)` is stepped as the matrix `(out, h * w * in)`, a view of its memory: `model` must lie in
    memory channels last. Muon's steps are scaled to AdamW's size, so that one learning rate serves both. Of it:
    Jordan 2024, "Muon: an optimizer for hidden layers in neural networks"; the scale: Liu et al. 2025 (2502.16982).
    """

    def __init__(self, model: nn.Module, lr: float) -> None:
        embeddings = [m for m in model.modules() if isinstance(m, nn.Embedding)]
        tables = {id(parameter) for table in embeddings for parameter in table.parameters()}
        kernels = [p for p in model.parameters() if p.ndim > 1 and id(p) not in tables]
        others = [p for p in model.parameters() if p.ndim <= 1 or id(p) in tables]
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
