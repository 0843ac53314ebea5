"""Tensors that no network uses: left out, or a reason to refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tether.errors import TetherError
from tether.files.checkpoints import Checkpoint
from tether.formats.strays import check_marks, left_out_words, split_strays, unwrapped


def test_what_is_outside_of_a_networks_modules_is_apart_from_what_is_inside() -> None:
    outside, inside = split_strays(["a.x", "a.y", "b", "step", "c.d"], ["a.x", "b"])
    assert outside == ["step", "c.d"]
    assert inside == ["a.y"]


def test_a_note_names_the_first_three() -> None:
    assert left_out_words(["x"]) == "left out: 1 tensor that no network uses (x)"
    assert left_out_words(list("abcd")) == "left out: 4 tensors that no network uses (a, b, c, ...)"


def test_ordinary_names_are_no_marks() -> None:
    check_marks(["model.diffusion_model.out.2.weight", "scale_factor", "v_pred", "logit_scale", "alphas_cumprod"], "x")


@pytest.mark.parametrize("name", ["scaled_fp8", "a.b.weight_scale", "x.qweight", "edm_std"])
def test_marks_are_named(name: str) -> None:
    with pytest.raises(TetherError, match=f"file has .*{name}"):
        check_marks(["fine", name], "file")


def checkpoint(*names: str) -> Checkpoint:
    return Checkpoint(Path("x"), {name: torch.zeros(1) for name in names})


def test_only_a_prefix_that_hides_a_supported_model_is_taken_away() -> None:
    hint = "input_hint_block.0.weight"
    assert list(unwrapped(checkpoint(f"module.control_model.{hint}", "module.b", "step")).tensors) == [
        f"control_model.{hint}", "b", "step",
    ]  # fmt: skip
    for names in ([f"control_model.{hint}", "module.b"], ["module.b"], [f"module.{hint}", "module.a", "a"]):
        assert list(unwrapped(checkpoint(*names)).tensors) == names
