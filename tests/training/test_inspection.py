"""What is wrong with a run's data is said before anything is built."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tether.base import Base, ControlNet
from tether.datasets.build import build_dataset
from tether.errors import TetherError
from tether.training.inspection import check_channels, inspect_data
from tether.training.run import dry_run, train

from ..datasets.conftest import picture
from .small import config, photos


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_a_control_of_other_channels_is_refused_before_anything_is_built(
    channels: int, tiny_folder: Path, tiny_base: Base, circles: Path, tmp_path: Path
) -> None:
    control = ControlNet.from_unet(tiny_base.unet, condition_channels=channels)
    with pytest.raises(TetherError, match=f"conditions of {channels} channels"):
        check_channels(control)
    control.save(tmp_path / "control")
    settings = config(tmp_path, tiny_folder, circles, start_from=str(tmp_path / "control"))
    for run in (dry_run, train):
        with pytest.raises(TetherError, match=f"conditions of {channels} channels"):
            run(settings)
    assert not settings.out.exists()


def test_a_set_that_is_smaller_than_the_training_images_is_refused(
    tiny_folder: Path, tiny_base: Base, tmp_path: Path
) -> None:
    build_dataset(photos(tmp_path / "photos"), tmp_path / "built", "canny", size=32, workers=0)
    with pytest.raises(TetherError, match="images of 32 pixels, and the training images have 64: build it with --size"):
        inspect_data(config(tmp_path, tiny_folder, tmp_path / "built", resolution=64), tiny_base)
    inspect_data(config(tmp_path, tiny_folder, tmp_path / "built", resolution=32), tiny_base)


def test_images_that_will_be_enlarged_are_counted(tiny_folder: Path, tiny_base: Base, tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    picture(9, 56, 80).save(folder / "0.png")
    found = inspect_data(config(tmp_path, tiny_folder, folder, resolution=64, validation_every=0), tiny_base)
    assert (found.samples, found.conditions) == (6, "annotated (canny)")
    assert found.notes == ("1 of 6 images are smaller than 64 pixels: enlarged",)


def test_captions_past_the_window_are_counted(tiny_folder: Path, tiny_base: Base, tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    (folder / "0.txt").write_text("a cat " * 200)
    (note,) = inspect_data(config(tmp_path, tiny_folder, folder, resolution=64, validation_every=0), tiny_base).notes
    assert note.startswith("1 of 6 captions have more than")


def test_too_few_samples_and_validation_on_trained_images_are_said(
    tiny_folder: Path, tiny_base: Base, tmp_path: Path
) -> None:
    folder = photos(tmp_path / "photos")
    with pytest.raises(TetherError, match="has 6 samples, and batch_size is 7"):
        inspect_data(config(tmp_path, tiny_folder, folder, batch_size=7), tiny_base)
    found = inspect_data(config(tmp_path, tiny_folder, folder, resolution=64), tiny_base)
    assert "2 validation images are trained on too" in found.notes[0]


def test_a_kind_that_nothing_can_make_is_refused_by_a_dry_run(tiny_folder: Path, tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    with pytest.raises(TetherError, match="keypoints has no annotator"):
        dry_run(config(tmp_path, tiny_folder, folder, condition="keypoints", resolution=64))
    assert not (tmp_path / "run").exists()


def test_names_for_a_source_are_refused_for_a_built_set(
    tiny_folder: Path, tiny_base: Base, circles: Path, tmp_path: Path
) -> None:
    with pytest.raises(TetherError, match="condition_column must be given to `tether dataset build`"):
        inspect_data(config(tmp_path, tiny_folder, circles, condition_column="hint"), tiny_base)


def test_notes_and_conditions_are_told_before_the_first_stage(tiny_folder: Path, circles: Path, tmp_path: Path) -> None:
    told: list[str] = []
    settings = config(tmp_path, tiny_folder, circles, validation_every=0)
    train(settings, on_stage=lambda stage, done, total: told.append(stage), on_note=told.append)
    assert told[0] == "conditions: exact (circles)"
    plan = dry_run(settings)
    assert plan.data is not None
    assert (plan.data.samples, plan.data.conditions) == (24, "exact (circles)")


def test_a_packed_file_is_looked_at_before_anything_is_loaded(
    tiny_folder: Path, tiny_base: Base, tmp_path: Path
) -> None:
    file = tmp_path / "packed.npz"
    settings = config(tmp_path, tiny_folder, file, validation_every=0)
    with pytest.raises(TetherError, match=r"cannot read the packed latents .*packed\.npz"):
        dry_run(settings)
    np.savez(file, counts=np.array(json.dumps({"red": 6, "blue": 4})))  # nothing else is read
    assert inspect_data(settings, tiny_base).samples == 10
    for changes, message in (
        ({"validation_every": 5}, "without validation images: set validation_every=0"),
        ({"shares": {"red": 1}}, "shares are given for red; .* has red, blue"),
    ):
        with pytest.raises(TetherError, match=message):
            dry_run(settings.model_copy(update=changes))
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(TetherError, match="cannot read the packed latents"):
        inspect_data(settings, tiny_base)
    with pytest.raises(TetherError, match=r"shares are for a packed latents file \(.npz\), not for circles"):
        dry_run(config(tmp_path, tiny_folder, Path("circles"), shares={"red": 1}))


def test_a_control_for_inpainting_is_validated_with_its_holes(tiny_folder: Path, tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", 8)
    result = train(config(tmp_path, tiny_folder, folder, condition="inpaint", resolution=64))
    assert [seen.fidelity for seen in result.outcome.curve] == [None, None, None]
