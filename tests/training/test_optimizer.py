"""Learning rate, clipping, optimizers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tether.training.optimizer import clip_gradients, learning_rate, make_optimizer


def test_clipping_scales_the_step_as_pytorch_does(tiny: ModuleType, tmp_path: Path) -> None:
    config = tiny.make_config(tmp_path, betas=(0.0, 0.0), weight_decay=0.0)
    updates = []
    for fused in (True, False):
        parameters = torch.nn.ParameterList([torch.zeros(3), torch.zeros(2, 2)])
        # An eps far above the gradients makes AdamW's step proportional to them: only so does clipping show.
        optimizer = make_optimizer(config, parameters)
        optimizer.param_groups[0]["eps"] = 1e3
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 3.0)
        clip = partial(clip_gradients, optimizer) if fused else torch.nn.utils.clip_grad_norm_
        norm = clip(list(parameters), 0.5)
        assert norm.item() == pytest.approx(3 * 7**0.5)
        optimizer.step()
        updates.append(torch.cat([p.detach().flatten() for p in parameters]))
    torch.testing.assert_close(updates[0], updates[1], rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 0.775, 0.55, 0.325]),
        ("cosine", [0.5, 1.0, 0.1 + 0.9 * 0.853553, 0.55, 0.1 + 0.9 * 0.146447]),
    ],
)
def test_learning_rates_warm_up_and_fall_to_the_floor(
    tiny: ModuleType, tmp_path: Path, schedule: str, expected: list[float]
) -> None:
    config = tiny.make_config(
        tmp_path, steps=6, schedule=schedule, warmup_steps=2, final_learning_rate=0.1, learning_rate=1.0
    )
    assert [learning_rate(config, step) for step in range(5)] == pytest.approx(
        [expected[0], 1.0, *expected[1:4]], rel=1e-5
    )


def test_adafactor_moves_weights_that_begin_at_0_as_far_as_adamw_does(tiny: ModuleType, tmp_path: Path) -> None:
    """A zero convolution under a steady gradient: both move it by about the learning rate a step."""
    moved = {}
    for name in ("adafactor", "adamw"):
        zero = torch.nn.Parameter(torch.zeros(8, 8, 1, 1))
        gradient = 1e-3 * torch.randn(zero.shape, generator=torch.Generator().manual_seed(0))
        optimizer = make_optimizer(tiny.make_config(tmp_path, optimizer=name), torch.nn.ParameterList([zero]))
        for _ in range(100):
            zero.grad = gradient.clone()
            optimizer.step()
        moved[name] = zero.detach().square().mean().sqrt().item()
    assert moved["adamw"] == pytest.approx(100 * 1e-3, rel=0.05)
    assert 0.3 < moved["adafactor"] / moved["adamw"] < 3
