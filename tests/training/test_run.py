"""A whole run on a tiny base: from drawn circles to a folder that others open."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from tether.base import ControlNet, load_base
from tether.conversion import convert
from tether.datasets.build import build_dataset
from tether.errors import TetherError
from tether.sampling import Pipeline
from tether.training.config import TrainConfig
from tether.training.events import Progress
from tether.training.run import train

from .small import config


def test_a_run_makes_a_control_that_draws_and_the_same_command_again_finds_it_finished(
    tiny_folder: Path, circles: Path, tmp_path: Path
) -> None:
    settings = config(tmp_path, tiny_folder, circles)
    told: list[Progress] = []
    stages: set[str] = set()
    result = train(settings, on_progress=told.append, on_stage=lambda stage, done, total: stages.add(stage))
    out = settings.out
    assert result.outcome.reason == "finished"
    assert [look.step for look in result.outcome.curve] == [0, 2, 4]
    assert all(0 <= look.fidelity <= 1 and 0 <= look.without_prompt <= 1 for look in result.outcome.curve)
    assert [p.step for p in told] == [1, 2, 3, 4]
    assert stages == {"encoding validation images"}
    assert TrainConfig.load(out / "config.yaml") == settings
    with Image.open(out / "samples" / "with-prompt.png") as sheet:
        assert sheet.height == 5 * (64 + 2)  # conditions, originals and three looks

    control = ControlNet.load(out / "control")
    assert control.kind == "canny"
    (picture,) = Pipeline(load_base(tiny_folder), [control])("a circle", [Image.new("RGB", (64, 64))], steps=1)
    assert isinstance(picture, Image.Image)

    again: list[Progress] = []
    found = train(settings, on_progress=again.append)
    assert again == []
    assert found.outcome == result.outcome
    assert json.loads((out / "result.json").read_text())["outcome"]["base_hash"] == result.outcome.base_hash


def test_a_run_in_two_sittings_makes_the_control_of_one(tiny_folder: Path, circles: Path, tmp_path: Path) -> None:
    shared = {"cache": str(tmp_path / "cache"), "validation_every": 0}
    train(config(tmp_path / "one", tiny_folder, circles, **shared))
    train(config(tmp_path / "two", tiny_folder, circles, **shared, steps=2))
    train(config(tmp_path / "two", tiny_folder, circles, **shared, steps=4))
    one, two = (ControlNet.load(tmp_path / name / "run" / "control").state_dict() for name in ("one", "two"))
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_an_unlocked_decoder_is_saved_as_a_denoiser_whose_encoder_is_the_bases(
    precision: str, tiny_folder: Path, circles: Path, tmp_path: Path
) -> None:
    settings = config(
        tmp_path, tiny_folder, circles, unlock_decoder=True, validation_every=0, steps=2, precision=precision
    )
    train(settings)

    trained = UNet2DConditionModel.from_pretrained(settings.out / "unet").state_dict()
    before = load_base(tiny_folder).unet.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], trained[name])}
    assert changed == {"up_blocks", "conv_norm_out", "conv_out"}


def test_other_settings_in_the_folder_of_a_run_are_refused(tiny_folder: Path, circles: Path, tmp_path: Path) -> None:
    train(config(tmp_path, tiny_folder, circles, validation_every=0, steps=1, warmup_steps=0))
    with pytest.raises(TetherError, match="learning_rate"):
        train(config(tmp_path, tiny_folder, circles, validation_every=0, steps=1, learning_rate=0.1))


def test_a_folder_that_the_result_may_not_replace_is_refused_at_the_start(
    tiny_folder: Path, circles: Path, tmp_path: Path
) -> None:
    settings = config(tmp_path, tiny_folder, circles)
    (tmp_path / "run" / "control").mkdir(parents=True)
    (tmp_path / "run" / "control" / "notes.txt").write_text("precious")
    with pytest.raises(TetherError, match=r"refusing to overwrite .*control: it is a folder that contains no control"):
        train(settings)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["control"]


def test_a_first_command_that_failed_leaves_the_folder_free(tiny_folder: Path, circles: Path, tmp_path: Path) -> None:
    with pytest.raises(TetherError, match="built for the condition 'canny', but the condition is 'cany'"):
        train(config(tmp_path, tiny_folder, circles, condition="cany", validation_every=0))
    assert train(config(tmp_path, tiny_folder, circles, validation_every=0)).outcome.reason == "finished"


def test_a_run_that_stopped_at_convergence_goes_on_if_the_setting_changes(
    tiny_folder: Path, circles: Path, tmp_path: Path
) -> None:
    stop: dict[str, Any] = {"validation_every": 0, "steps": 4, "after_convergence": "stop"}
    train(config(tmp_path, tiny_folder, circles, **stop | {"steps": 2}))
    told = json.loads((tmp_path / "run" / "result.json").read_text())
    told["outcome"]["reason"] = "converged"
    (tmp_path / "run" / "result.json").write_text(json.dumps(told))
    assert train(config(tmp_path, tiny_folder, circles, **stop)).outcome.step == 2
    assert train(config(tmp_path, tiny_folder, circles, **stop | {"after_convergence": "continue"})).outcome.step == 4


def test_resuming_with_other_images_of_the_same_names_is_refused(
    tiny_folder: Path, circles: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(circles, data)
    train(config(tmp_path, tiny_folder, data, validation_every=0, steps=2))
    shutil.rmtree(data)
    build_dataset("circles", data, "canny", size=72, count=24, workers=0)
    with pytest.raises(TetherError, match="another data"):
        train(config(tmp_path, tiny_folder, data, validation_every=0, steps=4))


def test_a_trained_control_takes_the_released_layout_and_comes_back(
    tiny_folder: Path, circles: Path, tmp_path: Path
) -> None:
    settings = config(tmp_path, tiny_folder, circles, validation_every=0)
    train(settings)
    convert(settings.out / "control", tmp_path / "released.safetensors", to="released")
    ours, back = ControlNet.load(settings.out / "control"), ControlNet.load(tmp_path / "released.safetensors")
    assert back.config == ours.config
    assert back.kind == "canny"
    assert all(torch.equal(back.state_dict()[name], tensor) for name, tensor in ours.state_dict().items())
