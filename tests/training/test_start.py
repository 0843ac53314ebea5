"""What a run starts from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from tether.base import ControlNet
from tether.errors import TetherError
from tether.training.run import train
from tether.training.start import open_start

from .small import config


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "from a control"])
def test_a_base_for_inpainting_is_not_trained_on(tiny_folder: Path, circles: Path, tmp_path: Path, fresh: bool) -> None:
    folder = tmp_path / "inpainting"
    shutil.copytree(tiny_folder, folder)
    plain = UNet2DConditionModel.from_pretrained(tiny_folder / "unet")
    UNet2DConditionModel.from_config({**plain.config, "in_channels": 9}).save_pretrained(folder / "unet")
    ControlNet.from_unet(plain).save(tmp_path / "control")
    start = {} if fresh else {"start_from": str(tmp_path / "control")}
    with pytest.raises(TetherError, match="is for inpainting"):
        train(config(tmp_path, folder, circles, validation_every=0, **start))


def test_only_middle_starts_from_controls_without_learned_skips_alone(tiny_folder: Path, tmp_path: Path) -> None:
    """What it would train and draw without the skips, others would load with them."""
    unet = UNet2DConditionModel.from_pretrained(tiny_folder / "unet")
    control = ControlNet.from_unet(unet)
    torch.nn.init.ones_(control.controlnet_mid_block.weight)
    control.save(tmp_path / "middle")
    torch.nn.init.ones_(control.controlnet_down_blocks[-1].bias)
    control.save(tmp_path / "whole")
    settings = {"only_middle": True, "start_from": str(tmp_path / "middle")}
    _, started = open_start(config(tmp_path, tiny_folder, tmp_path, **settings))
    assert bool(started.controlnet_mid_block.weight.all())
    with pytest.raises(TetherError, match="only_middle trains without the skip connections, but"):
        open_start(config(tmp_path, tiny_folder, tmp_path, **settings | {"start_from": str(tmp_path / "whole")}))


def test_a_new_run_begins_from_a_checkpoint_of_another(tiny_folder: Path, circles: Path, tmp_path: Path) -> None:
    before = config(tmp_path / "one", tiny_folder, circles, validation_every=0, steps=2)
    train(before)
    checkpoint = before.out / "checkpoints" / "step-00000002"
    learned = load_file(checkpoint / "average.safetensors")
    barely = {"learning_rate": 1e-12, "weight_decay": 0.0, "ema": 0.0, "steps": 1}
    after = config(tmp_path / "two", tiny_folder, circles, validation_every=0, start_from=str(checkpoint), **barely)
    train(after)
    control = ControlNet.load(after.out / "control").state_dict()
    for name, tensor in control.items():
        torch.testing.assert_close(tensor, learned[f"control.{name}"], rtol=0, atol=1e-6)


def test_a_run_goes_on_though_what_it_began_from_is_gone(tiny_folder: Path, circles: Path, tmp_path: Path) -> None:
    before = config(tmp_path / "one", tiny_folder, circles, validation_every=0, steps=2)
    train(before)
    start: dict[str, Any] = {"start_from": str(before.out / "checkpoints" / "step-00000002"), "validation_every": 0}
    whole = train(config(tmp_path / "whole", tiny_folder, circles, steps=4, **start))
    train(config(tmp_path / "two", tiny_folder, circles, steps=2, **start))
    shutil.rmtree(before.out)
    with pytest.raises(TetherError, match="step-00000002"):
        train(config(tmp_path / "none", tiny_folder, circles, steps=2, **start))
    continued = train(config(tmp_path / "two", tiny_folder, circles, steps=4, **start))
    assert whole.control is not None
    assert continued.control is not None
    ours, theirs = (load_file(r.control / "diffusion_pytorch_model.safetensors") for r in (continued, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_control_is_moved_from_the_base_it_was_trained_on(tiny_folder: Path, tmp_path: Path) -> None:
    """What it has learned, its difference from the old base's encoder, is added to the new base's."""
    old = tmp_path / "old"
    shutil.copytree(tiny_folder, old)
    unet = UNet2DConditionModel.from_pretrained(old / "unet")
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.mul_(1.5)
    unet.save_pretrained(old / "unet")
    learned = ControlNet.from_unet(unet)
    with torch.no_grad():
        for parameter in learned.parameters():
            parameter.add_(0.25)
    learned.save(tmp_path / "control")
    settings = config(
        tmp_path, tiny_folder, tmp_path, start_from=str(tmp_path / "control"), start_base=str(old), condition="canny"
    )
    base, control = open_start(settings)
    fresh, moved = base.unet.state_dict(), control.state_dict()
    shared = [name for name in moved if name in fresh]
    assert len(shared) > 20
    for name in shared:
        torch.testing.assert_close(moved[name], fresh[name] + 0.25, rtol=1e-5, atol=1e-5)
    others = [name for name in moved if name not in fresh]
    assert all(torch.equal(moved[name], learned.state_dict()[name]) for name in others)
    assert control.kind == "canny"


def test_an_unknown_family_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TetherError, match="unknown control family 'controlnut'"):
        open_start(config(tmp_path, tiny_folder, tmp_path, family="controlnut"))
