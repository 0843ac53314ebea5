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
from safetensors.torch import load_file

from tether.base import ControlNet, load_base
from tether.conversion import convert
from tether.datasets.build import build_dataset
from tether.errors import TetherError
from tether.sampling import Pipeline
from tether.training.config import TrainConfig
from tether.training.data import open_data, validation_places
from tether.training.events import Progress
from tether.training.run import dry_run, train


@pytest.fixture(scope="module")
def circles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("circles") / "data"
    build_dataset("circles", folder, "canny", size=64, count=24, workers=0)
    return folder


def config(folder: Path, base: Path, data: Path, **settings: Any) -> TrainConfig:
    small = {
        "steps": 4,
        "batch_size": 2,
        "crops": 2,
        "learning_rate": 1e-3,
        "checkpoint_every": 2,
        "watch_every": 2,
        "watch_pictures": 2,
        "watch_steps": 2,
        "precision": "no",
        "device": "cpu",
        "trackers": (),
        "ema": 0.9,
    }
    return TrainConfig.of(small | {"out": folder / "run", "base": str(base), "data": str(data)} | settings)


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
    assert all(0 <= look.obedience <= 1 and 0 <= look.without_prompt <= 1 for look in result.outcome.curve)
    assert [p.step for p in told] == [1, 2, 3, 4]
    assert stages == {"caching"}
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
    shared = {"cache": str(tmp_path / "cache"), "watch_every": 0}
    train(config(tmp_path / "one", tiny_folder, circles, **shared))
    train(config(tmp_path / "two", tiny_folder, circles, **shared, steps=2))
    train(config(tmp_path / "two", tiny_folder, circles, **shared, steps=4))
    one, two = (ControlNet.load(tmp_path / name / "run" / "control").state_dict() for name in ("one", "two"))
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_an_unlocked_decoder_is_saved_as_a_denoiser_whose_encoder_is_the_bases(
    precision: str, tiny_folder: Path, circles: Path, tmp_path: Path
) -> None:
    settings = config(tmp_path, tiny_folder, circles, unlock_decoder=True, watch_every=0, steps=2, precision=precision)
    train(settings)
    from diffusers import UNet2DConditionModel

    trained = UNet2DConditionModel.from_pretrained(settings.out / "unet").state_dict()
    before = load_base(tiny_folder).unet.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], trained[name])}
    assert changed == {"up_blocks", "conv_norm_out", "conv_out"}


def test_a_dataset_of_another_condition_is_refused(tiny_folder: Path, circles: Path, tmp_path: Path) -> None:
    with pytest.raises(TetherError, match="'canny', and 'depth' is to be trained"):
        train(config(tmp_path, tiny_folder, circles, condition="depth", watch_every=0))


def test_a_base_for_inpainting_is_not_trained_on(tiny_folder: Path, circles: Path, tmp_path: Path) -> None:
    folder = tmp_path / "inpainting"
    shutil.copytree(tiny_folder, folder)
    plain = UNet2DConditionModel.from_pretrained(tiny_folder / "unet")
    UNet2DConditionModel.from_config({**plain.config, "in_channels": 9}).save_pretrained(folder / "unet")
    with pytest.raises(TetherError, match="made for inpainting"):
        train(config(tmp_path, folder, circles, watch_every=0))


def test_other_settings_in_the_folder_of_a_run_are_refused(tiny_folder: Path, circles: Path, tmp_path: Path) -> None:
    train(config(tmp_path, tiny_folder, circles, watch_every=0, steps=1, warmup_steps=0))
    with pytest.raises(TetherError, match="learning_rate"):
        train(config(tmp_path, tiny_folder, circles, watch_every=0, steps=1, learning_rate=0.1))


def test_a_first_command_that_failed_leaves_the_folder_free(tiny_folder: Path, circles: Path, tmp_path: Path) -> None:
    with pytest.raises(TetherError):
        train(config(tmp_path, tiny_folder, circles, condition="cany", watch_every=0))
    assert train(config(tmp_path, tiny_folder, circles, watch_every=0)).outcome.reason == "finished"


def test_a_new_run_begins_from_a_checkpoint_of_another(tiny_folder: Path, circles: Path, tmp_path: Path) -> None:
    before = config(tmp_path / "one", tiny_folder, circles, watch_every=0, steps=2)
    train(before)
    checkpoint = before.out / "checkpoints" / "step-00000002"
    learned = load_file(checkpoint / "average.safetensors")
    barely = {"learning_rate": 1e-12, "weight_decay": 0.0, "ema": 0.0, "steps": 1}
    after = config(tmp_path / "two", tiny_folder, circles, watch_every=0, start_from=str(checkpoint), **barely)
    train(after)
    control = ControlNet.load(after.out / "control").state_dict()
    for name, tensor in control.items():
        torch.testing.assert_close(tensor, learned[f"control.{name}"], rtol=0, atol=1e-6)


def test_a_run_goes_on_though_what_it_began_from_is_gone(tiny_folder: Path, circles: Path, tmp_path: Path) -> None:
    before = config(tmp_path / "one", tiny_folder, circles, watch_every=0, steps=2)
    train(before)
    start: dict[str, Any] = {"start_from": str(before.out / "checkpoints" / "step-00000002"), "watch_every": 0}
    whole = train(config(tmp_path / "whole", tiny_folder, circles, steps=4, **start))
    train(config(tmp_path / "two", tiny_folder, circles, steps=2, **start))
    shutil.rmtree(before.out)
    with pytest.raises(TetherError):
        train(config(tmp_path / "none", tiny_folder, circles, steps=2, **start))
    continued = train(config(tmp_path / "two", tiny_folder, circles, steps=4, **start))
    assert whole.control is not None
    assert continued.control is not None
    ours, theirs = (load_file(r.control / "diffusion_pytorch_model.safetensors") for r in (continued, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_that_stopped_at_convergence_goes_on_when_told_to(
    tiny_folder: Path, circles: Path, tmp_path: Path
) -> None:
    stop: dict[str, Any] = {"watch_every": 0, "steps": 4, "after_convergence": "stop"}
    train(config(tmp_path, tiny_folder, circles, **stop | {"steps": 2}))
    told = json.loads((tmp_path / "run" / "result.json").read_text())
    told["outcome"]["reason"] = "converged"
    (tmp_path / "run" / "result.json").write_text(json.dumps(told))
    assert train(config(tmp_path, tiny_folder, circles, **stop)).outcome.step == 2
    assert train(config(tmp_path, tiny_folder, circles, **stop | {"after_convergence": "continue"})).outcome.step == 4


def test_going_on_with_other_pictures_of_the_same_names_is_refused(
    tiny_folder: Path, circles: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(circles, data)
    train(config(tmp_path, tiny_folder, data, watch_every=0, steps=2))
    shutil.rmtree(data)
    build_dataset("circles", data, "canny", size=72, count=24, workers=0)
    with pytest.raises(TetherError, match="another data"):
        train(config(tmp_path, tiny_folder, data, watch_every=0, steps=4))


def test_a_trained_control_takes_the_released_layout_and_comes_back(
    tiny_folder: Path, circles: Path, tmp_path: Path
) -> None:
    settings = config(tmp_path, tiny_folder, circles, watch_every=0)
    train(settings)
    convert(settings.out / "control", tmp_path / "released.safetensors", to="released")
    ours, back = ControlNet.load(settings.out / "control"), ControlNet.load(tmp_path / "released.safetensors")
    assert back.config == ours.config
    assert back.kind == "canny"
    assert all(torch.equal(back.state_dict()[name], tensor) for name, tensor in ours.state_dict().items())


def test_validation_shows_many_drawings_of_a_source_that_goes_round_them() -> None:
    drawings = 1016  # of `emoji3d`, each 8 times; every 677th sample shows but three of them
    places = validation_places(8 * drawings, 12)
    assert len({place % drawings for place in places}) >= 11
    assert places == validation_places(8 * drawings, 12)
    assert validation_places(5, 5) == [0, 1, 2, 3, 4]


def test_no_training_sees_the_validation_samples_and_an_epoch_sees_all_others_once(
    tiny_folder: Path, circles: Path, tmp_path: Path
) -> None:
    settings = config(tmp_path, tiny_folder, circles, empty_prompts=0.5)
    base = load_base(tiny_folder)
    data = open_data(settings, base)
    count = len(data.batches.samples)  # type: ignore[attr-defined]
    seen = [data.batches(range(n, n + 1)).names[0] for n in range(2 * (count - 2))]
    first, second = seen[: count - 2], seen[count - 2 :]
    assert len(set(first)) == count - 2
    assert set(first) == set(second)
    assert first != second
    held_back = set(data.batches.samples.names) - set(first)  # type: ignore[attr-defined]
    assert len(held_back) == len(data.validation) == 2

    batch = data.batches(range(16))
    empty = base.encode_prompts([""]).tokens[0]
    dropped = [torch.allclose(states, empty, atol=1e-2) for states in batch.text_states]
    assert 2 <= sum(dropped) <= 14
    assert batch.conditions.shape == (16, 3, 64, 64)
    assert torch.equal(data.batches(range(3, 5)).latents, batch.latents[3:5])


def test_a_dry_run_counts_parameters_memory_and_time_and_writes_nothing(
    tiny_folder: Path, circles: Path, tmp_path: Path
) -> None:
    settings = config(tmp_path, tiny_folder, circles, steps=10)
    plan = dry_run(settings)
    base = load_base(tiny_folder)
    control = ControlNet.from_unet(base.unet)
    trained = sum(p.numel() for p in control.parameters())
    assert plan.trained == trained
    assert plan.locked == sum(p.numel() for p in base.unet.parameters())
    assert plan.samples == 20
    assert plan.memory["control"] == plan.memory["average"] == 4 * trained
    assert plan.memory["gradients"] == 4 * max(p.numel() for p in control.parameters())
    clipped = dry_run(settings.model_copy(update={"max_grad_norm": 1.0}))
    assert clipped.memory["gradients"] == 4 * trained
    assert plan.memory["optimizer"] == pytest.approx(8 * trained, rel=0.01)
    assert plan.memory["activations"] > 0
    assert plan.seconds == 10 * plan.seconds_a_step > 0
    assert not settings.out.exists()
