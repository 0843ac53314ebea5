"""Section 3.4: how strongly, where, when and on which side of guidance a control acts."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from PIL import Image
from torch import Tensor, nn

from tether.control import ControlNet, Injection, Residuals, combine, predict_noise
from tether.errors import TetherError

SD_HEIGHTS = (64, 64, 64, 32, 32, 32, 16, 16, 16, 8, 8, 8, 8)
NAMES = ["balanced", "conditional", "cfg-rw", "released", "diffusers"]
EVERYWHERE = {"step": 0, "total_steps": 10}


def random_residuals(batch: int = 2, size: tuple[int, int] = (8, 12), channels: int = 3) -> Residuals:
    height, width = size
    sizes = [(height >> level, width >> level) for level in (0, 0, 1, 1, 2)]
    down = tuple(torch.randn(batch, channels, *s) for s in sizes)
    return Residuals(down, torch.randn(batch, channels, *sizes[-1]))


class FakeControl:
    """Residuals that show what went in: latents times t, plus the first text state, plus the hint."""

    def __init__(self, pools_globally: bool = False) -> None:
        self.pools_globally = pools_globally
        self.calls: list[tuple[Tensor, Any, Tensor, Tensor, Any]] = []

    def __call__(self, latents, timestep, text_states, hint, added_conditions=None) -> Residuals:
        self.calls.append((latents, timestep, text_states, hint, added_conditions))
        t = torch.as_tensor(timestep, dtype=torch.float32).reshape(-1, 1, 1, 1)
        full = latents * t + text_states[:, :1, :1, None] + hint
        return Residuals((full, full[..., ::2, ::2] * 2), full[..., ::4, ::4] * 3)


@pytest.fixture
def step_inputs() -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "latents": torch.randn(2, 4, 8, 8),
        "timestep": torch.tensor([100, 500]),
        "text_uncond": torch.randn(2, 7, 12),
        "text_cond": torch.randn(2, 7, 12),
    } | EVERYWHERE


def assert_equal(a: Residuals | None, b: Residuals | None) -> None:
    assert a is not None
    assert b is not None
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y)


def test_cfg_rw_weights_are_the_papers_at_512_pixels():
    assert Injection(weighting="cfg-rw").weights(SD_HEIGHTS, 64) == [1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8, 8]


@pytest.mark.parametrize("latent_height", [16, 32, 96, 128])
def test_cfg_rw_weights_follow_the_resolution_and_not_the_picture_size(latent_height):
    heights = [latent_height * h // 64 for h in SD_HEIGHTS]
    weights = Injection(weighting="cfg-rw").weights(heights, latent_height)
    assert weights == [1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8, 8]


def test_cfg_rw_of_a_height_that_does_not_halve_is_latent_height_over_height():
    assert Injection(weighting="cfg-rw").weights((9, 5, 3), 9) == [1, 9 / 5, 3]


def test_cfg_rw_is_applied_by_height_also_to_pictures_that_are_not_square():
    residuals = random_residuals(size=(8, 20))
    weighted = Injection(weighting="cfg-rw").apply(residuals)
    for before, after, weight in zip(residuals, weighted, [1, 1, 2, 2, 4, 4], strict=True):
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


def test_explicit_weights_are_used_as_given_and_must_be_one_a_residual():
    residuals = random_residuals()
    weights = [0.0, 1.0, -2.0, 3.0, 0.5, 6.0]
    for before, after, w in zip(residuals, Injection(2, weights).apply(residuals), weights, strict=True):
        torch.testing.assert_close(after, before * 2 * w)
    with pytest.raises(TetherError, match=r"5 weights.* 6"):
        Injection(weighting=weights[1:]).apply(residuals)


@torch.no_grad()
@pytest.mark.parametrize(("weighting", "guess_mode"), [("balanced", False), ("diffusers", True)])
def test_injected_residuals_are_those_of_diffusers(weighting, guess_mode, make_unet, make_inputs, randomise):
    unet = make_unet("sd1")
    inputs = make_inputs(unet)
    control = ControlNet.from_unet(unet, hint_channels=(4, 4, 8, 8))
    randomise(control)
    theirs = ControlNetModel.from_config(control.config)
    theirs.load_state_dict(control.state_dict())
    condition = torch.rand(2, 3, 128, 64)
    down, middle = theirs(
        inputs["latents"],
        inputs["timestep"],
        inputs["text_states"],
        condition,
        conditioning_scale=0.7,
        guess_mode=guess_mode,
        return_dict=False,
    )
    ours = Injection(0.7, weighting).apply(control(hint=control.encode(condition), **inputs))
    assert_equal(ours, Residuals(tuple(down), middle))


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
    residuals = random_residuals()
    masked = Injection(mask=mask).apply(residuals)
    for before, after in zip(residuals, masked, strict=True):
        columns = before.shape[-1]
        # A residual's column covers the mask's columns from floor(j W / w) to ceil((j + 1) W / w).
        covered = [(j * width // columns, -(-(j + 1) * width // columns)) for j in range(columns)]
        for j, (first, last) in enumerate(covered):
            if first >= width // 2:
                assert not after[..., j].any()
            elif last <= width // 2:
                assert torch.equal(after[..., j], before[..., j])
            else:
                share = (width // 2 - first) / (last - first)
                torch.testing.assert_close(after[..., j], before[..., j] * share)
    assert not masked.middle[..., -1].any()


def test_a_mask_is_resized_by_area_for_each_layer():
    mask = torch.rand(1, 1, 16, 24)
    residuals = random_residuals()
    for before, after in zip(residuals, Injection(mask=mask).apply(residuals), strict=True):
        rows, columns = before.shape[-2:]
        means = mask[0, 0].reshape(rows, 16 // rows, columns, 24 // columns).mean((1, 3))
        torch.testing.assert_close(after, before * means)


def test_a_mask_for_each_image_serves_both_sides_of_guidance():
    mask = torch.stack([torch.zeros(1, 8, 12), torch.ones(1, 8, 12)])
    residuals = random_residuals(batch=4)
    for before, after in zip(residuals, Injection(mask=mask).apply(residuals), strict=True):
        assert not after[[0, 2]].any()
        assert torch.equal(after[[1, 3]], before[[1, 3]])
    with pytest.raises(TetherError, match="batch of 2"):
        Injection(mask=mask).apply(random_residuals(batch=3))
    with pytest.raises(TetherError, match="batch"):  # no side of guidance has two pictures here
        Injection(mask=mask).apply(random_residuals(batch=6))


def test_a_mask_for_more_images_than_there_are_is_refused(step_inputs):
    """Were it not, two masks for one image would mask one side of guidance each."""
    one = {name: value[:1] if isinstance(value, Tensor) else value for name, value in step_inputs.items()}
    injection = Injection(mask=torch.rand(2, 1, 8, 8))
    hint = torch.randn(1, 4, 8, 8)
    assert combine([FakeControl()], [injection], [hint], **step_inputs) is not None
    with pytest.raises(TetherError, match="batch of 2"):
        combine([FakeControl()], [injection], [hint], **one)


def test_a_mask_of_sixteen_bits_is_refused_and_not_clipped():
    with pytest.raises(TetherError, match="8 bits"):
        Injection(mask=Image.new("I;16", (8, 8)))


def test_a_picture_is_a_mask():
    image = Image.new("L", (12, 8), 0)
    image.paste(255, (0, 0, 6, 8))
    image.paste(51, (6, 0, 12, 4))
    mask = Injection(mask=image).mask
    assert isinstance(mask, Tensor)
    assert mask.shape == (1, 1, 8, 12)
    assert mask[0, 0, :, :6].eq(1).all()
    torch.testing.assert_close(mask[0, 0, :4, 6:], torch.full((4, 6), 0.2))
    assert not mask[0, 0, 4:, 6:].any()


def test_several_controls_add_up(step_inputs):
    controls = [FakeControl(), FakeControl(), FakeControl()]
    injections = [Injection(0.5), Injection(2.0, "cfg-rw"), Injection(1.5, "released", sides="both")]
    hints = [torch.randn(2, 4, 8, 8) for _ in controls]
    alone = [
        combine([control], [injection], [hint], **step_inputs)
        for control, injection, hint in zip(controls, injections, hints, strict=True)
    ]
    together = combine(controls, injections, hints, **step_inputs)
    summed = [sum(parts) for parts in zip(*(list(residuals) for residuals in alone), strict=True)]
    assert_equal(together, Residuals(tuple(summed[:-1]), summed[-1]))


def test_both_sides_are_run_as_one_batch_with_the_unconditional_side_first(step_inputs):
    control, hint = FakeControl(), torch.randn(2, 4, 8, 8)
    residuals = combine([control], [Injection()], [hint], **step_inputs)
    sides = [
        FakeControl()(step_inputs["latents"], step_inputs["timestep"], step_inputs[text], hint)
        for text in ("text_uncond", "text_cond")
    ]
    expected = [torch.cat(pair) for pair in zip(*sides, strict=True)]
    assert_equal(residuals, Residuals(tuple(expected[:-1]), expected[-1]))
    assert [len(call[0]) for call in control.calls] == [4]


def test_a_conditional_control_is_run_on_half_the_batch_and_is_zero_on_the_other(step_inputs):
    control, hint = FakeControl(), torch.randn(2, 4, 8, 8)
    residuals = combine([control], [Injection(weighting="conditional")], [hint], **step_inputs)
    alone = FakeControl()(step_inputs["latents"], step_inputs["timestep"], step_inputs["text_cond"], hint)
    assert [len(call[0]) for call in control.calls] == [2]
    for residual, expected in zip(residuals, alone, strict=True):
        assert not residual[:2].any()
        assert torch.equal(residual[2:], expected)


def test_a_share_scales_the_unconditional_side_alone(step_inputs):
    control, hint = FakeControl(), torch.randn(2, 4, 8, 8)
    full = combine([control], [Injection(0.5)], [hint], **step_inputs)
    shared = combine([control], [Injection(0.5, sides=0.75)], [hint], **step_inputs)
    for residual, expected in zip(shared, full, strict=True):
        assert torch.equal(residual[:2], expected[:2] * 0.75)
        assert torch.equal(residual[2:], expected[2:])


def test_shares_of_one_and_nothing_are_both_sides_and_the_conditional(step_inputs):
    hint = torch.randn(1, 4, 8, 8)
    for share, name in ((1, "both"), (0.0, "conditional")):
        assert Injection(sides=share).acts_on() == name
        control, named = FakeControl(), FakeControl()
        residuals = combine([control], [Injection(sides=share)], [hint], **step_inputs)
        assert_equal(residuals, combine([named], [Injection(sides=name)], [hint], **step_inputs))
        assert [len(call[0]) for call in control.calls] == [len(call[0]) for call in named.calls]


def test_a_share_changes_nothing_without_guidance(step_inputs):
    hint = torch.randn(1, 4, 8, 8)
    step_inputs["text_uncond"] = None
    plain = combine([FakeControl()], [Injection()], [hint], **step_inputs)
    assert_equal(combine([FakeControl()], [Injection(sides=0.3)], [hint], **step_inputs), plain)


def test_a_pooling_control_is_conditional_by_default(step_inputs):
    residuals = combine([FakeControl(True)], [Injection()], [torch.zeros(1, 4, 8, 8)], **step_inputs)
    assert not residuals.middle[:2].any()
    assert residuals.middle[2:].any()


@pytest.mark.parametrize("weighting", NAMES)
def test_without_guidance_the_batch_is_the_conditional_side(weighting, step_inputs):
    control, hint = FakeControl(), torch.randn(1, 4, 8, 8)
    step_inputs["text_uncond"] = None
    residuals = combine([control], [Injection(weighting=weighting)], [hint], **step_inputs)
    alone = FakeControl()(step_inputs["latents"], step_inputs["timestep"], step_inputs["text_cond"], hint)
    assert_equal(residuals, Injection(weighting=weighting).apply(alone))


@pytest.mark.parametrize("timestep", [7, 7.0, torch.tensor(7), torch.tensor([7])])
def test_one_timestep_serves_both_sides(timestep, step_inputs):
    hint = torch.randn(1, 4, 8, 8)
    one = combine([FakeControl()], [Injection()], [hint], **(step_inputs | {"timestep": timestep}))
    each = combine([FakeControl()], [Injection()], [hint], **(step_inputs | {"timestep": torch.tensor([7, 7])}))
    assert_equal(one, each)


def test_added_conditions_reach_each_side(step_inputs):
    uncond, cond = {"text_embeds": torch.zeros(2, 3)}, {"text_embeds": torch.ones(2, 3)}
    hint = torch.zeros(1, 4, 8, 8)
    both, conditional = FakeControl(), FakeControl()
    injections = [Injection(), Injection(weighting="conditional")]
    combine([both, conditional], injections, [hint, hint], added_uncond=uncond, added_cond=cond, **step_inputs)
    assert torch.equal(both.calls[0][-1]["text_embeds"], torch.cat([torch.zeros(2, 3), torch.ones(2, 3)]))
    assert conditional.calls[0][-1] is cond
    with pytest.raises(TetherError, match="added_uncond"):
        combine([both], [Injection()], [hint], added_cond=cond, **step_inputs)


@pytest.mark.parametrize(
    "injection",
    [
        Injection(0.0),
        Injection(0, "cfg-rw"),
        Injection(weighting=[0.0, 0.0, 0.0]),
        Injection(window=(0.5, 1.0)),
        Injection(window=(0.0, 0.05)),
    ],
)
def test_nothing_active_is_none_and_the_control_is_not_run(injection, step_inputs):
    control, hint = FakeControl(), torch.randn(1, 4, 8, 8)
    assert combine([control], [injection], [hint], **step_inputs) is None
    assert not control.calls
    active = combine([control, control], [injection, Injection()], [hint, hint], **step_inputs)
    assert_equal(active, combine([FakeControl()], [Injection()], [hint], **step_inputs))


def test_no_controls_is_none(step_inputs):
    assert combine([], [], [], **step_inputs) is None


@torch.no_grad()
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("weighting", ["conditional", "cfg-rw", "released", "diffusers"])
def test_conditional_control_leaves_the_unconditional_prediction_exactly_the_bases(
    family, weighting, make_unet, make_inputs, randomise
):
    unet = make_unet(family)
    control = ControlNet.from_unet(unet, hint_channels=(4, 4, 8, 8))
    randomise(control)
    inputs = make_inputs(unet)
    added = inputs["added_conditions"]
    uncond, cond = torch.zeros_like(inputs["text_states"]), inputs["text_states"]
    residuals = combine(
        [control],
        [Injection(weighting=weighting)],
        [control.encode(torch.rand(1, 3, 128, 64))],
        inputs["latents"],
        inputs["timestep"],
        uncond,
        cond,
        **EVERYWHERE,
        added_uncond=added,
        added_cond=added,
    )
    batch = {
        "latents": torch.cat([inputs["latents"]] * 2),
        "timestep": torch.cat([inputs["timestep"]] * 2),
        "text_states": torch.cat([uncond, cond]),
        "added_conditions": {name: torch.cat([value] * 2) for name, value in (added or {}).items()},
    }
    base = predict_noise(unet, **batch)
    controlled = predict_noise(unet, residuals=residuals, **batch)
    assert torch.equal(controlled[:2], base[:2])
    assert (controlled[2:] - base[2:]).abs().amax((1, 2, 3)).min() > 1e-4


def test_a_compiled_or_wrapped_control_is_a_control_too(make_unet, make_inputs, step_inputs):
    """`combine` asks for a call and `pools_globally` and nothing else."""
    unet = make_unet()
    control = ControlNet.from_unet(unet, hint_channels=(4, 4, 8, 8))
    nn.init.ones_(control.controlnet_mid_block.bias)
    wrapped = torch.compile(control, backend="eager")
    hint = control.encode(torch.rand(1, 3, 64, 64))
    plain = combine([control], [Injection()], [hint], **step_inputs)
    assert_equal(combine([wrapped], [Injection()], [hint], **step_inputs), plain)


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
        ({"mask": torch.zeros(8, 8)}, "mask"),
        ({"mask": torch.zeros(1, 3, 8, 8)}, "mask"),
        ({"mask": torch.full((1, 1, 8, 8), 255.0)}, r"\[0, 1\]"),
        ({"mask": torch.full((1, 1, 8, 8), float("nan"))}, r"\[0, 1\]"),
        ({"mask": "mask.png"}, "mask"),
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


def test_as_many_injections_and_hints_as_controls_are_needed(step_inputs):
    with pytest.raises(TetherError, match="2 controls"):
        combine([FakeControl()] * 2, [Injection()], [torch.zeros(1, 4, 8, 8)] * 2, **step_inputs)


def test_residuals_of_different_denoisers_do_not_add_up():
    with pytest.raises(TetherError, match="different base models"):
        random_residuals() + random_residuals(channels=4)
    with pytest.raises(TetherError, match="3 weights for 6"):
        random_residuals().scaled([1.0, 2.0, 3.0])
