"""The study of transfer: its style, and what is certain before the base is fine-tuned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tether.base import Base, load_base
from tether.control import load_control
from tether.evaluation.run import STRENGTH_0
from tether.images import open_image
from tether.studies.bench import Bench
from tether.studies.study import QUICK
from tether.studies.transfer import STUDY, TRANSFERRED, UNCHANGED, blueprint, off_style
from tether.studies.whole import WholeUNet

from ..tiny import make_inputs, make_training_base


def test_blueprints_are_in_style_and_other_pictures_are_not() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert off_style(Image.fromarray(blueprint(pixels)), "")["value"] < 3  # colors are counted in steps of four
    assert off_style(Image.fromarray(pixels), "")["value"] > 20
    assert blueprint(np.full((1, 1, 3), 255, np.uint8)).mean() < blueprint(np.zeros((1, 1, 3), np.uint8)).mean()


def test_the_whole_unet_is_the_base_before_training_and_is_trained_alone(tmp_path: Path) -> None:
    base: Base = make_training_base()
    whole = WholeUNet.from_base(base)
    inputs = make_inputs(base.unet, size=(8, 8))
    ours, theirs = (one.predict(**inputs) for one in (whole.wrap(base.denoiser), base.denoiser))
    assert torch.equal(ours, theirs)
    ours.square().mean().backward()
    assert all(one.grad is not None for one in whole.parameters() if one.requires_grad)
    assert all(one.grad is None for one in base.unet.parameters())
    whole.save(tmp_path / "whole")
    again = load_control(tmp_path / "whole")
    assert type(again) is WholeUNet
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), whole.parameters(), strict=True))


def test_before_fine_tuning_the_transferred_control_draws_what_the_unchanged_one_does_and_then_it_is_another(
    tmp_path: Path,
) -> None:
    found = STUDY.run(Bench(tmp_path, QUICK, quick=True))
    assert found.verdict == "not judged"
    sheet = dict(found.sheet)
    levels = {label: [np.asarray(open_image(file)) for file in files] for label, files in sheet.items()}
    for ours, theirs in zip(levels[f"{UNCHANGED}\nstep 0"], levels[f"{TRANSFERRED}\nstep 0"], strict=True):
        assert np.array_equal(ours, theirs)
    drawn = zip(levels[f"{STRENGTH_0}\nstep 0"], levels[f"{STRENGTH_0}\nstep 2"], strict=True)
    assert any(not np.array_equal(before, after) for before, after in drawn)

    before, after = (load_base(one).unet.state_dict() for one in ("tether", tmp_path / "bases/blueprint-0-at-2"))
    moved = load_control(tmp_path / "transferred/blueprint-0-at-2").state_dict()
    name = "conv_in.weight"
    difference = moved[name] - load_control("canny").state_dict()[name]
    assert torch.allclose(difference, after[name] - before[name], atol=1e-6)
    assert difference.any()
