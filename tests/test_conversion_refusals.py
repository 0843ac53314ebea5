"""Arguments that mean nothing are refused; what a target cannot store is refused, or noted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tether.base import ControlNet, load_base
from tether.conversion import convert
from tether.errors import TetherError
from tether.files.checkpoints import open_checkpoint

from .tiny import make_unet


def written(folder: Path, *, pools: bool = False, **notes: Any) -> Path:
    """A control with Stable Diffusion's number of heads."""
    unet = make_unet(attention_head_dim=8, norm_num_groups=32)
    control = ControlNet.from_unet(unet, global_pool_conditions=pools)
    for name, value in notes.items():
        setattr(control, name, value)
    control.save(folder)
    return folder


@pytest.mark.parametrize(
    ("is_control", "argument", "message"),
    [
        (False, {"kind": "canny"}, "is a base model: only a control has a kind"),
        (False, {"base": "tether"}, "is a base model: only a control is added to a base"),
        (True, {"prediction_type": "epsilon"}, "is a control: only a base has a prediction type"),
        (True, {"base": "./not/opened"}, "is a whole control: only a difference file is added to a base"),
    ],
)
def test_an_argument_that_is_for_another_model_is_refused(
    is_control: bool, argument: dict[str, str], message: str, tiny_folder: Path, control_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(TetherError, match=message):
        convert(control_folder if is_control else tiny_folder, tmp_path / "out", to="diffusers", **argument)
    assert not (tmp_path / "out").exists()


def test_a_control_that_pools_is_not_written_where_that_cannot_be_stored(tmp_path: Path) -> None:
    control = written(tmp_path / "one", pools=True)
    with pytest.raises(TetherError, match=r"has global_pool_conditions, which \.pth cannot store: use \.safetensors"):
        convert(control, tmp_path / "two.pth", to="original")
    assert not (tmp_path / "two.pth").exists()


def test_a_name_that_says_shuffle_stands_for_pooling_where_nothing_else_can(tmp_path: Path) -> None:
    pools, plain = written(tmp_path / "one", pools=True), written(tmp_path / "two")
    for name in ("a_shuffle.pth", "b_shuffle.safetensors", "c.safetensors"):
        convert(pools, tmp_path / name, to="original")
        assert ControlNet.load(tmp_path / name).pools_globally
    convert(plain, tmp_path / "d_shuffle.safetensors", to="original")
    assert not ControlNet.load(tmp_path / "d_shuffle.safetensors").pools_globally
    with pytest.raises(
        TetherError, match=r"has no global_pool_conditions, but a \.pth named e_shuffle\.pth opens with"
    ):
        convert(plain, tmp_path / "e_shuffle.pth", to="original")
    assert not (tmp_path / "e_shuffle.pth").exists()


@pytest.mark.parametrize(("upcasts", "stored"), [(None, {}), (False, {}), (True, {"upcast_attention": True})])
def test_a_setting_about_rounding_keeps_no_control_from_a_pth(
    upcasts: bool | None, stored: dict[str, Any], tmp_path: Path
) -> None:
    control = written(tmp_path / "one")
    config = json.loads((control / "config.json").read_text()) | {"upcast_attention": upcasts}
    (control / "config.json").write_text(json.dumps(config))
    convert(control, tmp_path / "two.pth", to="original")
    convert(control, tmp_path / "two.safetensors", to="original")
    metadata = open_checkpoint(tmp_path / "two.safetensors").metadata
    assert json.loads(metadata.get("tether.config", "{}")) == stored


@pytest.mark.parametrize(
    ("target", "notes"),
    [
        ("two.safetensors", []),
        ("two.pth", ["it has kind=canny and sides=0.6, which .pth cannot store: use .safetensors"]),
        ("two-canny.ckpt", ["it has sides=0.6, which .ckpt cannot store: use .safetensors"]),
    ],
)
def test_a_kind_and_sides_that_a_file_cannot_store_are_noted(target: str, notes: list[str], tmp_path: Path) -> None:
    control = written(tmp_path / "one", kind="canny", sides=0.6)
    assert convert(control, tmp_path / target, to="original").notes == notes


def test_parts_that_are_not_written_are_not_in_the_index(tiny_folder: Path, tmp_path: Path) -> None:
    """diffusers does not open a folder whose index names a part that is not there."""
    from diffusers import DiffusionPipeline

    base = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    index = json.loads((base / "model_index.json").read_text())
    more = {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "requires_safety_checker": True,
    }
    (base / "model_index.json").write_text(json.dumps(index | more))
    done = convert(base, tmp_path / "out", to="diffusers")
    assert done.notes == ["left out: feature_extractor, safety_checker"]
    assert json.loads((tmp_path / "out" / "model_index.json").read_text()) == index
    assert DiffusionPipeline.from_pretrained(tmp_path / "out").safety_checker is None
    assert load_base(tmp_path / "out").family == "custom"
