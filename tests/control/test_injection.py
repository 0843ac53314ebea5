"""Section 3.4: how strongly, where, when and on which CFG branch a control acts."""

from __future__ import annotations

import itertools

import pytest
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from PIL import Image
from torch import Tensor

from tether.control import ControlNet, Injection, Signal
from tether.errors import TetherError

SD_HEIGHTS = (64, 64, 64, 32, 32, 32, 16, 16, 16, 8, 8, 8, 8)
NAMES = ["balanced", "conditional", "cfg-rw", "released", "soft", "diffusers"]


def random_signal(batch: int = 2, size: tuple[int, int] = (8, 12), channels: int = 3) -> Signal:
    height, width = size
    sizes = [(height >> level, width >> level) for level in (0, 0, 1, 1, 2)]
    skips = {f"skip.{k}": torch.randn(batch, channels, *s) for k, s in enumerate(sizes)}
    return Signal(skips | {"middle": torch.randn(batch, channels, *sizes[-1])})


def pairs(before: Signal, after: Signal) -> list[tuple[Tensor, Tensor]]:
    assert list(before) == list(after)
    return list(zip(before.values(), after.values(), strict=True))


def test_cfg_rw_weights_are_the_papers_at_512_pixels():
    assert Injection(weighting="cfg-rw").weights(SD_HEIGHTS, 64) == [1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8, 8]


@pytest.mark.parametrize("latent_height", [16, 32, 96, 128])
def test_cfg_rw_weights_follow_the_resolution_and_not_the_image_size(latent_height):
    heights = [latent_height * h // 64 for h in SD_HEIGHTS]
    weights = Injection(weighting="cfg-rw").weights(heights, latent_height)
    assert weights == [1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8, 8]


def test_cfg_rw_of_a_height_that_does_not_halve_is_latent_height_over_height():
    assert Injection(weighting="cfg-rw").weights((9, 5, 3), 9) == [1, 9 / 5, 3]


def test_cfg_rw_is_applied_by_height_also_to_images_that_are_not_square():
    signal = random_signal(size=(8, 20))
    weighted = Injection(weighting="cfg-rw").apply(signal)
    for (before, after), weight in zip(pairs(signal, weighted), [1, 1, 2, 2, 4, 4], strict=True):
        assert torch.equal(after, before * weight)


def test_released_weights_are_those_of_guess_mode_in_the_released_code():
    weights = Injection(weighting="released").weights(SD_HEIGHTS, 64)
    assert weights == pytest.approx([0.825 ** (12 - i) for i in range(13)])
    assert len(Injection(weighting="released").weights((8, 4, 2), 8)) == 3


def test_diffusers_weights_are_those_of_its_guess_mode():
    weights = Injection(weighting="diffusers").weights(SD_HEIGHTS, 64)
    assert weights == pytest.approx(torch.logspace(-1, 0, 13, dtype=torch.float64).tolist())


@pytest.mark.parametrize("weighting", ["balanced", "conditional"])
def test_plain_weights_are_the_strength(weighting):
    assert Injection(0.5, weighting).weights(SD_HEIGHTS, 64) == [0.5] * 13


@pytest.mark.parametrize("weighting", [*NAMES, tuple(range(13))])
def test_strength_multiplies_every_weighting(weighting):
    one = Injection(1.0, weighting).weights(SD_HEIGHTS, 64)
    assert Injection(0.25, weighting).weights(SD_HEIGHTS, 64) == pytest.approx([w / 4 for w in one])


def test_explicit_weights_are_used_as_given_and_must_be_one_an_injection_point():
    signal = random_signal()
    weights = [0.0, 1.0, -2.0, 3.0, 0.5, 6.0]
    for (before, after), w in zip(pairs(signal, Injection(2, weights).apply(signal)), weights, strict=True):
        torch.testing.assert_close(after, before * 2 * w)
    with pytest.raises(TetherError, match=r"5 weights.* 6"):
        Injection(weighting=weights[1:]).apply(signal)


@torch.no_grad()
@pytest.mark.parametrize(("weighting", "guess_mode"), [("balanced", False), ("diffusers", True)])
def test_the_injected_signal_is_that_of_diffusers(weighting, guess_mode, make_unet, make_inputs, randomize):
    unet = make_unet("sd1")
    inputs = make_inputs(unet)
    control = ControlNet.from_unet(unet, hint_channels=(4, 4, 8, 8))
    randomize(control)
    theirs = ControlNetModel.from_config(control.config)
    theirs.load_state_dict(control.state_dict())
    condition = torch.rand(2, 3, 128, 64)
    down, middle = theirs(
        inputs["latents"],
        inputs["timestep"],
        inputs["conditioning"].tokens,
        condition,
        conditioning_scale=0.7,
        guess_mode=guess_mode,
        return_dict=False,
    )
    ours = Injection(0.7, weighting).apply(control(hint=control.encode(condition), **inputs))
    for tensor, expected in zip(ours.values(), [*down, middle], strict=True):
        torch.testing.assert_close(tensor, expected)


@pytest.mark.parametrize("places", [5, 6, 16])
def test_an_edge_written_to_five_places_or_more_is_the_step_that_it_means(places: int):
    for n in (3, 7, 20, 30, 50):
        for k in range(1, n):
            edge = round(k / n, places)
            before, after = Injection(window=(0.0, edge)), Injection(window=(edge, 1.0))
            assert [i for i in range(n) if before.is_active(i, n)] == list(range(k))
            assert [i for i in range(n) if after.is_active(i, n)] == list(range(k, n))
    assert not Injection(window=(0.0, 0.333333), exact_window=True).is_active(0, 3)


def test_window_is_active_at_exactly_the_steps_at_which_diffusers_keeps_a_control():
    edges = [0, 0.1, 0.2, 1 / 3, 0.5, 0.6, 2 / 3, 0.75, 0.9, 1]
    seen = set()
    for n, (start, end) in itertools.product(range(1, 51), itertools.combinations(edges, 2)):
        injection = Injection(window=(start, end))
        for i in range(n):
            keep = 1.0 - float(i / n < start or (i + 1) / n > end)
            assert injection.is_active(i, n) == bool(keep), (i, n, start, end)
            seen.add(keep)
    assert seen == {0.0, 1.0}


def test_default_sides_are_those_of_the_weighting_and_a_pooling_control_is_conditional():
    assert {name: Injection(weighting=name).acts_on() for name in NAMES} == {
        "balanced": "both",
        "conditional": "conditional",
        "cfg-rw": "conditional",
        "released": "conditional",
        "soft": "both",
        "diffusers": "conditional",
    }
    assert Injection(weighting=[1.0]).acts_on() == "both"
    assert Injection().acts_on(pools_globally=True) == "conditional"
    assert Injection(sides="both").acts_on(pools_globally=True) == "both"
    assert Injection(weighting="cfg-rw", sides="both").acts_on() == "both"
    assert Injection(sides="conditional").acts_on() == "conditional"


@pytest.mark.parametrize("mask_size", [(64, 96), (8, 12), (10, 7)])
def test_control_is_exactly_zero_where_the_mask_is_and_untouched_where_it_is_one(mask_size):
    height, width = mask_size
    mask = torch.zeros(1, 1, height, width)
    mask[..., : width // 2] = 1
    signal = random_signal()
    masked = Injection(mask=mask).apply(signal)
    for before, after in pairs(signal, masked):
        columns = before.shape[-1]
        # A tensor's column covers the mask's columns from floor(j W / w) to ceil((j + 1) W / w).
        covered = [(j * width // columns, -(-(j + 1) * width // columns)) for j in range(columns)]
        for j, (first, last) in enumerate(covered):
            if first >= width // 2:
                assert not after[..., j].any()
            elif last <= width // 2:
                assert torch.equal(after[..., j], before[..., j])
            else:
                share = (width // 2 - first) / (last - first)
                torch.testing.assert_close(after[..., j], before[..., j] * share)
    assert not masked["middle"][..., -1].any()


def test_a_mask_is_resized_by_area_for_each_layer():
    mask = torch.rand(1, 1, 16, 24)
    signal = random_signal()
    for before, after in pairs(signal, Injection(mask=mask).apply(signal)):
        rows, columns = before.shape[-2:]
        means = mask[0, 0].reshape(rows, 16 // rows, columns, 24 // columns).mean((1, 3))
        torch.testing.assert_close(after, before * means)


def test_a_mask_is_interpolated_between_the_four_nearest_pixels_if_asked():
    """At factor 4 the middle of a cell lies between the 2 x 2 pixels in its middle; at factor 2 both ways agree."""
    mask = torch.rand(1, 1, 16, 24)
    signal = random_signal()
    for before, after in pairs(signal, Injection(mask=mask, mask_resize="bilinear").apply(signal)):
        rows, columns = before.shape[-2:]
        cells = mask[0, 0].reshape(rows, 16 // rows, columns, 24 // columns).transpose(1, 2)
        half = cells.shape[-2] // 2
        middle = cells[..., half - 1 : half + 1, half - 1 : half + 1]
        torch.testing.assert_close(after, before * middle.mean((2, 3)))


def test_a_line_of_one_pixel_acts_at_every_layer_only_by_area():
    mask = torch.zeros(1, 1, 64, 96)
    mask[..., 2] = 1
    signal = random_signal()
    by_area, bilinear = (Injection(mask=mask, mask_resize=way).apply(signal) for way in ("area", "bilinear"))
    assert all(r.any() for r in by_area.values())
    assert not any(r.any() for r in bilinear.values())


def test_a_mask_for_each_image_serves_both_cfg_branches():
    mask = torch.stack([torch.zeros(1, 8, 12), torch.ones(1, 8, 12)])
    signal = random_signal(batch=4)
    for before, after in pairs(signal, Injection(mask=mask).apply(signal)):
        assert not after[[0, 2]].any()
        assert torch.equal(after[[1, 3]], before[[1, 3]])
    with pytest.raises(TetherError, match="batch of 2"):
        Injection(mask=mask).apply(random_signal(batch=3))
    with pytest.raises(TetherError, match="batch"):  # no CFG branch has two images here
        Injection(mask=mask).apply(random_signal(batch=6))


@pytest.mark.parametrize("form", ["array", "tensor", "bytes", "booleans"])
def test_a_mask_may_be_any_array_of_a_plane(form: str) -> None:
    plane = torch.zeros(8, 12)
    plane[:, :6] = 1
    forms = {"array": plane.numpy(), "tensor": plane, "bytes": (255 * plane).byte().numpy(), "booleans": plane > 0}
    assert torch.equal(Injection(mask=forms[form]).mask, plane[None, None])


def test_a_mask_of_sixteen_bits_is_refused_and_not_clipped():
    with pytest.raises(TetherError, match="8 bits"):
        Injection(mask=Image.new("I;16", (8, 8)))


def test_a_pil_image_is_a_mask():
    image = Image.new("L", (12, 8), 0)
    image.paste(255, (0, 0, 6, 8))
    image.paste(51, (6, 0, 12, 4))
    mask = Injection(mask=image).mask
    assert isinstance(mask, Tensor)
    assert mask.shape == (1, 1, 8, 12)
    assert mask[0, 0, :, :6].eq(1).all()
    torch.testing.assert_close(mask[0, 0, :4, 6:], torch.full((4, 6), 0.2))
    assert not mask[0, 0, 4:, 6:].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": -0.1}, "strength"),
        ({"strength": float("nan")}, "strength"),
        ({"strength": "much"}, "strength"),
        ({"weighting": "cfg"}, "cfg-rw"),
        ({"weighting": []}, "weighting"),
        ({"weighting": [1.0, "2"]}, "weighting"),
        ({"weighting": 3}, "weighting"),
        ({"sides": "left"}, "sides"),
        ({"sides": 1.1}, "sides"),
        ({"sides": -0.1}, "sides"),
        ({"sides": float("nan")}, "sides"),
        ({"sides": True}, "sides"),
        ({"window": (0.5, 0.5)}, "window"),
        ({"window": (-0.1, 1)}, "window"),
        ({"window": (0, 1.1)}, "window"),
        ({"window": (0, 0.5, 1)}, "window"),
        ({"window": 0.5}, "window"),
        ({"mask": torch.zeros(8)}, "mask"),
        ({"mask": torch.zeros(1, 3, 8, 8)}, "mask"),
        ({"mask": torch.full((1, 1, 8, 8), 255.0)}, r"\[0, 1\]"),
        ({"mask": torch.full((1, 1, 8, 8), float("nan"))}, r"\[0, 1\]"),
        ({"mask": "mask.png"}, "mask"),
        ({"mask_resize": "nearest"}, "mask_resize is 'nearest'; it must be one of area, bilinear"),
    ],
)
def test_a_setting_that_cannot_be_right_is_refused_in_one_line(settings, message):
    with pytest.raises(TetherError, match=message) as error:
        Injection(**settings)
    assert "\n" not in str(error.value)


def test_injection_cannot_be_changed_and_takes_no_unknown_settings():
    with pytest.raises(AttributeError):
        Injection().strength = 2.0
    with pytest.raises(TypeError):
        Injection(strenght=1.0)


@pytest.mark.parametrize(
    ("options", "steps", "why"),
    [
        ({}, 1, None),
        ({"strength": 0}, 4, "its strength is 0"),
        ({"weighting": [0, 0]}, 4, "all its weights are 0"),
        ({"window": (0.9, 1.0)}, 8, "none of the 8 steps lies in its window 0.9-1"),
        ({"window": (0.9, 1.0)}, 10, None),
        ({"window": (0.0, 0.3)}, 3, "none of the 3 steps lies in its window 0-0.3"),
        ({"mask": torch.zeros(1, 1, 8, 8)}, 4, "its mask is black everywhere"),
        ({"mask": torch.eye(8)[None, None]}, 4, None),
    ],
)
def test_a_control_that_acts_at_no_step_says_why(options, steps, why):
    injection = Injection(**options)
    assert injection.why_idle(steps) == why
    if why is not None and "mask" not in options:
        assert not any(injection.is_active(step, steps) for step in range(steps))


def test_soft_weights_are_those_of_thirteen_tensors_also_where_there_are_ten() -> None:
    assert Injection(weighting="soft").weights(SD_HEIGHTS, 64) == Injection(weighting="released").weights(
        SD_HEIGHTS, 64
    )
    ten = Injection(weighting="soft").weights((128,) * 10, 128)
    assert ten == pytest.approx([0.825 ** (12 - i) for i in range(10)])
    assert ten[-1] == pytest.approx(0.825**3)
    assert Injection(weighting="soft").acts_on() == "both"
