"""A union: several kinds of condition in one trainable copy, each of which is a ControlNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from torch import Tensor

from tether.base.denoiser import UNetDenoiser
from tether.base.noise import noise_process
from tether.control import ControlNet, UnionControlNet, load_control
from tether.conversion import convert
from tether.errors import TetherError

from .. import tiny

KINDS = ("canny", "depth", "inpaint")
SMALL: dict[str, Any] = {"hint_channels": (4, 4, 8, 8)}
UNET = tiny.make_unet("bundled")


@pytest.fixture
def union(make_unet: Any, randomize: Any) -> UnionControlNet:
    """A union of random weights, kind embeddings and zero convolutions included."""
    made = UnionControlNet.from_unet(make_unet("bundled"), kinds=KINDS, **SMALL)
    randomize(made)
    made.name = "union"
    return made.eval()


def condition_of(inputs: dict[str, Any], seed: int = 2) -> Tensor:
    batch, _, height, width = inputs["latents"].shape
    return torch.rand(batch, 3, 8 * height, 8 * width, generator=torch.Generator().manual_seed(seed))


def test_a_new_union_does_not_change_the_base(make_unet: Any, make_inputs: Any) -> None:
    unet = make_unet("bundled")
    inputs = make_inputs(unet)
    control = UnionControlNet.from_unet(unet, kinds=KINDS, **SMALL)
    denoiser = UNetDenoiser(unet, noise_process({}))
    plain = denoiser.predict(**inputs)
    for kind in KINDS:
        chosen = control.choose([kind])
        signal = chosen(hint=chosen.encode(condition_of(inputs)), **inputs)
        assert not any(tensor.any() for tensor in signal.values())
        assert torch.equal(denoiser.predict(signal=signal, **inputs), plain)


@pytest.mark.parametrize("family", ["sd1", "sdxl", "bundled"])
def test_a_kind_of_a_union_is_the_controlnet_that_diffusers_computes(
    family: str, make_unet: Any, make_inputs: Any, randomize: Any, tmp_path: Path
) -> None:
    unet = make_unet(family)
    control = UnionControlNet.from_unet(unet, kinds=KINDS, **SMALL)
    randomize(control)
    inputs = make_inputs(unet)
    chosen = control.eval().choose(["depth"])
    ours = chosen(hint=chosen.encode(condition_of(inputs)), **inputs)
    control.of_kind("depth").save(tmp_path / "depth")
    theirs = ControlNetModel.from_pretrained(tmp_path / "depth")
    conditioning = inputs["conditioning"]
    added = dict(conditioning.extras)
    if conditioning.pooled is not None:
        added["text_embeds"] = conditioning.pooled
    down, middle = theirs(
        inputs["latents"],
        inputs["timestep"],
        conditioning.tokens,
        condition_of(inputs),
        added_cond_kwargs=added,
        return_dict=False,
    )
    assert len(ours) == len(down) + 1
    for ours_of, theirs_of in zip(ours.values(), [*down, middle], strict=True):
        torch.testing.assert_close(ours_of, theirs_of, rtol=1e-4, atol=1e-5)


def test_a_batch_of_several_kinds_is_each_sample_with_its_own(union: UnionControlNet, make_inputs: Any) -> None:
    inputs = make_inputs(UNET)
    batch = len(inputs["latents"])
    kinds = [KINDS[(2 * k + 1) % 3] for k in range(batch)]
    assert len(set(kinds)) > 1
    condition = condition_of(inputs)
    chosen = union.choose(kinds)
    together = chosen(hint=chosen.encode(condition), **inputs)
    for row, kind in enumerate(kinds):
        single = union.of_kind(kind)
        alone = single(hint=single.encode(condition), **inputs)
        for point, tensor in together.items():
            torch.testing.assert_close(tensor[row], alone[point][row], rtol=1e-4, atol=1e-5)


def test_kinds_differ_once_they_are_trained(union: UnionControlNet, make_inputs: Any) -> None:
    inputs = make_inputs(UNET)
    first, second = (
        single(hint=single.encode(condition_of(inputs)), **inputs)
        for single in (union.of_kind("canny"), union.of_kind("depth"))
    )
    assert not torch.allclose(first["middle"], second["middle"], atol=1e-4)


def test_every_kind_of_a_union_of_a_control_is_that_control(make_unet: Any, make_inputs: Any, randomize: Any) -> None:
    control = ControlNet.from_unet(make_unet("bundled"), **SMALL)
    randomize(control)
    inputs = make_inputs(UNET)
    expected = control(hint=control.encode(condition_of(inputs)), **inputs)
    made = UnionControlNet.from_control(control, KINDS)
    for kind in KINDS:
        plain = made.of_kind(kind)
        found = plain(hint=plain.encode(condition_of(inputs)), **inputs)
        for point, tensor in expected.items():
            assert torch.equal(found[point], tensor)


def test_a_union_of_a_union_keeps_its_kinds_and_starts_new_ones_as_its_first(
    union: UnionControlNet, make_inputs: Any
) -> None:
    inputs = make_inputs(UNET)
    made = UnionControlNet.from_control(union, ("seg", "depth"))
    for new, old in (("seg", "canny"), ("depth", "depth")):
        ours, theirs = made.of_kind(new), union.of_kind(old)
        found = ours(hint=ours.encode(condition_of(inputs)), **inputs)
        expected = theirs(hint=theirs.encode(condition_of(inputs)), **inputs)
        for point, tensor in expected.items():
            assert torch.equal(found[point], tensor)


def test_every_kind_gets_a_gradient_and_only_its_own_stem(union: UnionControlNet, make_inputs: Any) -> None:
    inputs = make_inputs(UNET)
    union.requires_grad_(True).train()
    chosen = union.choose(["depth"])
    signal = chosen(hint=chosen.encode(condition_of(inputs)), **inputs)
    signal["middle"].square().sum().backward()
    stems = union.controlnet_cond_embedding.stems
    assert all(parameter.grad is not None for parameter in stems["depth"].parameters())
    assert all(parameter.grad is None for parameter in stems["canny"].parameters())
    rows = union.kind_embedding.weight.grad
    assert rows is not None
    assert rows[1].any()
    assert not rows[0].any()
    assert not rows[2].any()


def test_a_union_survives_its_files(union: UnionControlNet, tmp_path: Path) -> None:
    union.save(tmp_path / "union")
    again = load_control(tmp_path / "union")
    assert isinstance(again, UnionControlNet)
    assert again.kinds == KINDS
    for name, tensor in union.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


@pytest.mark.parametrize("named", ["in the reference", "as an argument"])
def test_a_kind_is_opened_by_its_name(named: str, union: UnionControlNet, make_inputs: Any, tmp_path: Path) -> None:
    union.save(tmp_path / "union")
    path = str(tmp_path / "union")
    opened = load_control(f"{path}:depth") if named == "in the reference" else load_control(path, kind="depth")
    assert opened.kind == "depth"
    inputs = make_inputs(UNET)
    expected = union.of_kind("depth")
    found = opened(inputs["latents"], inputs["timestep"], inputs["conditioning"], opened.encode(condition_of(inputs)))
    for point, tensor in expected(hint=expected.encode(condition_of(inputs)), **inputs).items():
        torch.testing.assert_close(found[point], tensor)


@pytest.mark.parametrize("layout", ["diffusers", "original"])
def test_a_kind_is_converted_to_a_controlnet(
    layout: Any, union: UnionControlNet, make_inputs: Any, tmp_path: Path
) -> None:
    union.save(tmp_path / "union")
    target = tmp_path / ("depth" if layout == "diffusers" else "depth.safetensors")
    convert(f"{tmp_path / 'union'}:depth", target, to=layout)
    opened = ControlNet.load(target)
    assert opened.kind == "depth"
    inputs, expected = make_inputs(UNET), union.of_kind("depth")
    found = opened(hint=opened.encode(condition_of(inputs)), **inputs)
    for point, tensor in expected(hint=expected.encode(condition_of(inputs)), **inputs).items():
        torch.testing.assert_close(found[point], tensor)


def test_a_kind_that_was_not_trained_is_refused_by_name(union: UnionControlNet, tmp_path: Path) -> None:
    union.save(tmp_path / "union")
    for attempt in (
        lambda: union.of_kind("openpose"),
        lambda: union.choose(["canny", "openpose"]),
        lambda: union.only(["openpose"]),
        lambda: load_control(f"{tmp_path / 'union'}:openpose"),
        lambda: convert(f"{tmp_path / 'union'}:openpose", tmp_path / "out", to="diffusers"),
    ):
        with pytest.raises(TetherError, match=r"openpose.*canny, depth, inpaint"):
            attempt()


def test_a_union_without_a_chosen_kind_says_which_there_are(
    union: UnionControlNet, make_inputs: Any, tmp_path: Path
) -> None:
    inputs = make_inputs(UNET)
    with pytest.raises(TetherError, match="canny, depth, inpaint"):
        union.encode(condition_of(inputs))
    union.save(tmp_path / "union")
    with pytest.raises(TetherError, match="canny, depth, inpaint"):
        convert(tmp_path / "union", tmp_path / "out", to="diffusers")


def test_each_kind_has_its_own_range_of_values(union: UnionControlNet, make_inputs: Any) -> None:
    holes = condition_of(make_inputs(UNET))
    holes[:, :, :4] = -1
    union.choose(["inpaint"]).encode(holes)
    with pytest.raises(TetherError, match="expected \\[0, 1\\]"):
        union.choose(["depth"]).encode(holes)


def test_only_some_kinds_can_be_kept(union: UnionControlNet, make_inputs: Any) -> None:
    kept = union.only(["inpaint"])
    assert kept.kinds == ("inpaint",)
    inputs = make_inputs(UNET)
    ours, theirs = kept.of_kind("inpaint"), union.of_kind("inpaint")
    found = ours(hint=ours.encode(condition_of(inputs)), **inputs)
    for point, tensor in theirs(hint=theirs.encode(condition_of(inputs)), **inputs).items():
        assert torch.equal(found[point], tensor)


@pytest.mark.parametrize("kinds", [(), ("canny", "canny"), ("a.b",), ("",)])
def test_kinds_must_be_names_that_differ(kinds: tuple[str, ...], make_unet: Any) -> None:
    with pytest.raises(TetherError, match="kind"):
        UnionControlNet.from_unet(make_unet("bundled"), kinds=kinds, **SMALL)


def test_the_hint_encoder_of_the_paper_is_refused(make_unet: Any) -> None:
    with pytest.raises(TetherError, match="released"):
        UnionControlNet.from_unet(make_unet("bundled"), kinds=KINDS, hint="paper")
