"""Auxiliary losses are plug-ins."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tether.errors import TetherError
from tether.training import auxiliary
from tether.training.auxiliary import load_auxiliary_loss, make_auxiliary_losses
from tether.training.config import AuxiliaryLossConfig
from tether.training.divergence import Diverged
from tether.training.trainer import Trainer

PLUGIN = """
class Pull:
    def __init__(self, control, base, towards=0.0):
        self.bias, self.towards = control.controlnet_mid_block.bias, towards

    def __call__(self, batch):
        return (self.bias - self.towards).square().mean()
"""


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    path = tmp_path / "plugin.py"
    path.write_text(PLUGIN)
    return f"{path}:Pull"


def train(tiny: ModuleType, out: Path, **settings: Any) -> tuple[Trainer, list[Any]]:
    trainer, seen = tiny.make_trainer(out, steps=6, learning_rate=0.05, **settings), []
    trainer.on_progress = seen.append
    trainer.fit()
    return trainer, seen


def test_a_loss_of_a_file_named_in_the_config_is_trained_and_reported(
    tiny: ModuleType, tmp_path: Path, plugin: str
) -> None:
    losses = [{"loss": plugin, "weight": 100.0, "options": {"towards": 0.5}}]
    _, seen = train(tiny, tmp_path / "run", auxiliary_losses=losses)
    pulls = [progress.auxiliary["Pull"] for progress in seen]
    assert pulls[0] == pytest.approx(0.25)
    assert pulls[-1] < 0.6 * pulls[0]
    _, plain = train(tiny, tmp_path / "plain")
    assert plain[0].loss == seen[0].loss  # the diffusion loss alone
    assert plain[0].auxiliary == {}


def test_a_weight_of_zero_leaves_a_loss_out_and_until_lets_it_fall_along_a_line(tiny: ModuleType, plugin: str) -> None:
    base = tiny.make_base()
    control = tiny.make_control(base)
    assert make_auxiliary_losses([AuxiliaryLossConfig(loss=plugin, weight=0)], control, base) == {}
    falling = AuxiliaryLossConfig(loss=plugin, weight=0.4, until=0.5)
    assert [falling.weight_at(step, 8) for step in range(6)] == pytest.approx([0.4, 0.3, 0.2, 0.1, 0, 0])
    assert AuxiliaryLossConfig(loss=plugin, weight=0.4).weight_at(7, 8) == 0.4


def test_modules_and_entry_points_are_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_auxiliary_loss("torch.nn:MSELoss") is torch.nn.MSELoss
    point = EntryPoint("mse", "torch.nn:MSELoss", auxiliary.GROUP)
    monkeypatch.setattr(auxiliary, "entry_points", lambda group: [point] if group == auxiliary.GROUP else [])
    assert load_auxiliary_loss("mse") is torch.nn.MSELoss
    with pytest.raises(TetherError, match=r"unknown auxiliary loss 'other' \(installed: feedback, mse\)"):
        load_auxiliary_loss("other")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no/such/file.py:Loss", "there is no auxiliary loss at no/such/file.py"),
        ("no_such_module:Loss", "No module named 'no_such_module'"),
        ("torch.nn:NoSuchLoss", "no attribute 'NoSuchLoss'"),
    ],
)
def test_what_cannot_be_loaded_is_named(reference: str, message: str) -> None:
    with pytest.raises(TetherError, match=message):
        load_auxiliary_loss(reference)


def test_a_file_that_does_not_load_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("here = undefined\n")
    with pytest.raises(TetherError, match=r"mine\.py does not load: NameError: name 'undefined' is not defined"):
        load_auxiliary_loss(f"{tmp_path / 'mine.py'}:Loss")


def test_wrong_options_and_a_loss_given_twice_are_refused(tiny: ModuleType, plugin: str) -> None:
    base = tiny.make_base()
    control = tiny.make_control(base)
    with pytest.raises(TetherError, match=r"does not accept its options: .*'toward'"):
        make_auxiliary_losses([AuxiliaryLossConfig(loss=plugin, options={"toward": 1})], control, base)
    with pytest.raises(TetherError, match="two auxiliary losses are named Pull"):
        make_auxiliary_losses([AuxiliaryLossConfig(loss=plugin)] * 2, control, base)


@pytest.mark.parametrize("clip", [1.0, 0.0])
def test_an_auxiliary_loss_that_is_not_finite_is_named_before_anything_changes(
    tiny: ModuleType, tmp_path: Path, clip: float
) -> None:
    made = tmp_path / "broken.py"
    made.write_text(
        "def broken(control, base):\n    return lambda batch: control.controlnet_mid_block.bias.sum() * float('nan')\n"
    )
    losses = [{"loss": f"{made}:broken"}]
    trainer = tiny.make_trainer(tmp_path / "run", max_grad_norm=clip, auxiliary_losses=losses)
    with pytest.raises(Diverged, match=r"step 1: the auxiliary loss broken is not finite; .* a new run without it"):
        trainer.fit()
    assert not bool(trainer.control.controlnet_mid_block.bias.any())
