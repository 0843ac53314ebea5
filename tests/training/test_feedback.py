"""Consistency feedback: its soft edges are Canny's, its gradient improves them, and only little noise gets any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tether.errors import TetherError
from tether.images import open_image, to_pixels
from tether.kinds.canny import edge_map
from tether.training.feedback import REWARDS, Feedback, soft_canny, soft_f1

from ..tiny import make_control, make_training_base

EXAMPLES = Path(__file__).parents[2] / "src" / "tether" / "examples"


def example(name: str) -> tuple[Tensor, Tensor]:
    """Pixels `(1, 3, 128, 128)` in [-1, 1] and OpenCV's edges of them `(1, 3, 128, 128)` in [0, 1]."""
    image = open_image(EXAMPLES / name).convert("RGB").resize((128, 128))
    edges = torch.from_numpy(edge_map(np.asarray(image)) / 255).float()
    return to_pixels(image).reshape(1, 3, 128, 128), edges.expand(1, 3, -1, -1).clone()


@pytest.mark.parametrize("name", ["house.webp", "mouse.webp"])
def test_soft_edges_are_where_opencv_finds_them(name: str) -> None:
    pixels, edges = example(name)
    found = soft_canny(pixels)
    assert soft_f1((found > 0.5).float(), edges[:, :1]) > 0.9
    other = example("mouse.webp" if name == "house.webp" else "house.webp")[1]
    assert REWARDS["canny"](pixels, edges) < 0.5 * REWARDS["canny"](pixels, other)


def test_the_gradient_of_the_loss_makes_missing_edges_appear() -> None:
    pixels, edges = example("house.webp")
    pale = (0.3 * pixels).requires_grad_(True)
    before = REWARDS["canny"](pale, edges).sum()
    for _ in range(20):
        (gradient,) = torch.autograd.grad(REWARDS["canny"](pale, edges).sum(), pale)
        pale = (pale - 0.02 * gradient.sign()).detach().requires_grad_(True)
    assert REWARDS["canny"](pale, edges).sum() < 0.8 * before


@pytest.mark.parametrize("kind", sorted(REWARDS))
def test_every_kind_gives_a_loss_for_each_picture_with_gradients(kind: str) -> None:
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    losses = REWARDS[kind](pixels, torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    assert losses.shape == (2,)
    losses.sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.isfinite().all()


def test_a_map_without_edges_gives_finite_losses() -> None:
    blank = torch.zeros(1, 3, 32, 32, requires_grad=True)
    loss = REWARDS["canny"](blank, torch.zeros(1, 3, 32, 32)).sum()
    loss.backward()
    assert loss.isfinite()


class _Batch:
    """What feedback reads of a batch."""

    def __init__(self, conditions: Tensor) -> None:
        self.conditions = conditions


def made(**options: Any) -> Feedback:
    base = make_training_base()
    control = make_control(base)
    control.kind = "canny"
    return Feedback(control, base, **options)


def test_only_samples_of_little_noise_get_feedback() -> None:
    loss = made(until=0.2)
    torch.manual_seed(0)
    noisy, prediction = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8, requires_grad=True)
    batch: Any = _Batch(torch.rand(2, 3, 64, 64))
    loss.watch(noisy, torch.tensor([500, 100]), prediction)
    loss(batch).backward()
    assert prediction.grad is not None
    assert not prediction.grad[0].any()
    assert prediction.grad[1].any()
    loss.watch(noisy, torch.tensor([500, 200]), prediction)
    assert loss(batch) == 0


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [("openpose", {}, "feedback is for canny, depth, normal"), ("canny", {"until": 0}, "above 0 and up to 1")],
)
def test_what_feedback_is_not_for_is_refused(kind: str, options: dict[str, Any], message: str) -> None:
    base = make_training_base()
    control = make_control(base)
    control.kind = kind
    with pytest.raises(TetherError, match=message):
        Feedback(control, base, **options)
