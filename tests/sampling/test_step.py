"""One step: guidance, CFG branches, windows, several controls, engines' and controls' seams."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tether.base.denoiser import Denoiser, UNetDenoiser
from tether.base.noise import noise_process
from tether.control import Conditioning, Control, ControlNet, Injection, Signal
from tether.errors import TetherError
from tether.sampling import Guidance, Steering, make_step
from tether.sampling.engines import Engine

from ..tiny import NOISE_SCHEDULE, make_inputs, make_unet, randomize
from .fakes import (
    GUIDED,
    TIMESTEPS,
    UNGUIDED,
    FakeControl,
    FakeDenoiser,
    latents_of,
    random_hint,
    random_text,
    signal_of,
)

T = TIMESTEPS
NAMES: list[Any] = ["balanced", "conditional", "cfg-rw", "released", "diffusers"]


def assert_equal(ours: Signal | None, theirs: Signal | None) -> None:
    assert ours is not None
    assert theirs is not None
    assert list(ours) == list(theirs)
    for point in ours:
        torch.testing.assert_close(ours[point], theirs[point])


def alone(text: Conditioning, hint: Tensor) -> Signal:
    return FakeControl()(latents_of(), T, text, hint)


def test_guidance_is_the_unconditional_prediction_plus_scale_times_the_difference() -> None:
    denoiser = FakeDenoiser()
    prediction = make_step(denoiser, [], GUIDED, 10)(latents_of(), T, 0)
    assert GUIDED.unconditional is not None
    unconditional = FakeDenoiser().predict(latents_of(), T, GUIDED.unconditional)
    conditional = FakeDenoiser().predict(latents_of(), T, GUIDED.conditional)
    torch.testing.assert_close(prediction, unconditional + 3.0 * (conditional - unconditional))
    assert [len(latents) for latents, *_ in denoiser.calls] == [4]


def test_without_guidance_the_denoiser_runs_on_the_prompts_alone() -> None:
    denoiser = FakeDenoiser()
    prediction = make_step(denoiser, [], UNGUIDED, 10)(latents_of(), T, 0)
    torch.testing.assert_close(prediction, FakeDenoiser().predict(latents_of(), T, UNGUIDED.conditional))
    assert [len(latents) for latents, *_ in denoiser.calls] == [2]


def test_text_is_stacked_once_a_run() -> None:
    denoiser = FakeDenoiser()
    step = make_step(denoiser, [Steering(FakeControl(), random_hint())], GUIDED, 10)
    for index in range(3):
        step(latents_of(index), T, index)
    assert len({id(text) for _, _, text, _ in denoiser.calls}) == 1


def test_controls_do_not_see_the_extra_channels_of_an_inpainting_denoiser() -> None:
    class Inpaints(FakeDenoiser):
        def predict(
            self, latents: Tensor, timestep: Any, conditioning: Conditioning, signal: Signal | None = None
        ) -> Tensor:
            return super().predict(latents[:, :4], timestep, conditioning, signal) * latents[:, 4:].mean()

    denoiser, control = Inpaints(), FakeControl()
    step = make_step(denoiser, [Steering(control, random_hint())], GUIDED, 10, extra_channels=torch.ones(2, 5, 8, 8))
    step(latents_of(), T, 0)
    assert control.calls[0][0].shape[1] == 4


def test_several_controls_add_up() -> None:
    injections = [Injection(0.5), Injection(2.0, "cfg-rw"), Injection(1.5, "released", sides="both")]
    steering = [(FakeControl(), injection, random_hint(k)) for k, injection in enumerate(injections)]
    together = signal_of(*steering)
    parts = [signal_of(one) for one in steering]
    summed = {point: sum(part[point] for part in parts if part is not None) for point in parts[0] or ()}
    assert_equal(together, Signal(summed))  # type: ignore[arg-type]


def test_both_branches_run_as_one_batch_with_the_unconditional_first() -> None:
    control, hint = FakeControl(), random_hint()
    signal = signal_of((control, Injection(), hint))
    assert GUIDED.unconditional is not None
    branches = [alone(text, hint) for text in (GUIDED.unconditional, GUIDED.conditional)]
    assert_equal(signal, Signal({point: torch.cat([one[point] for one in branches]) for point in branches[0]}))
    assert [len(call[0]) for call in control.calls] == [4]


def test_a_conditional_control_runs_on_half_the_batch_and_is_zero_on_the_other() -> None:
    control, hint = FakeControl(), random_hint()
    signal = signal_of((control, Injection(weighting="conditional"), hint))
    assert signal is not None
    assert [len(call[0]) for call in control.calls] == [2]
    for point, expected in alone(GUIDED.conditional, hint).items():
        assert not signal[point][:2].any()
        assert torch.equal(signal[point][2:], expected)


def test_a_share_scales_the_unconditional_branch_alone() -> None:
    full = signal_of((FakeControl(), Injection(0.5), random_hint()))
    shared = signal_of((FakeControl(), Injection(0.5, sides=0.75), random_hint()))
    assert full is not None
    assert shared is not None
    for point, expected in full.items():
        assert torch.equal(shared[point][:2], expected[:2] * 0.75)
        assert torch.equal(shared[point][2:], expected[2:])


def test_shares_of_one_and_zero_are_both_branches_and_the_conditional() -> None:
    for share, name in ((1, "both"), (0.0, "conditional")):
        control, named = FakeControl(), FakeControl()
        signal = signal_of((control, Injection(sides=share), random_hint()))
        assert_equal(signal, signal_of((named, Injection(sides=name), random_hint())))  # type: ignore[arg-type]
        assert [len(call[0]) for call in control.calls] == [len(call[0]) for call in named.calls]


def test_a_share_changes_nothing_without_guidance() -> None:
    plain = signal_of((FakeControl(), Injection(), random_hint()), guidance=UNGUIDED)
    assert_equal(signal_of((FakeControl(), Injection(sides=0.3), random_hint()), guidance=UNGUIDED), plain)


def test_a_pooling_control_acts_on_the_conditional_branch_by_default() -> None:
    signal = signal_of((FakeControl(pools_globally=True), Injection(), random_hint()))
    assert signal is not None
    assert not signal["middle"][:2].any()
    assert signal["middle"][2:].any()


@pytest.mark.parametrize("weighting", NAMES)
def test_without_guidance_every_weighting_acts_on_the_whole_batch(weighting: Any) -> None:
    injection, hint = Injection(weighting=weighting), random_hint(batch=1)
    signal = signal_of((FakeControl(), injection, hint), guidance=UNGUIDED)
    assert_equal(signal, injection.apply(alone(UNGUIDED.conditional, hint)))


@pytest.mark.parametrize("timestep", [torch.tensor(7), torch.tensor([7]), torch.tensor(7.0)])
def test_one_timestep_serves_both_branches(timestep: Tensor) -> None:
    one = signal_of((FakeControl(), Injection(), random_hint()), timestep=timestep)
    assert_equal(one, signal_of((FakeControl(), Injection(), random_hint()), timestep=torch.tensor([7, 7])))


def test_a_mask_for_each_image_serves_both_branches() -> None:
    mask = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])
    signal = signal_of((FakeControl(), Injection(mask=mask), random_hint()))
    assert signal is not None
    assert not signal["skip.0"][[0, 2]].any()
    assert signal["skip.0"][[1, 3]].abs().amin() > 0


@pytest.mark.parametrize("guidance", [GUIDED, UNGUIDED])
def test_a_mask_or_a_hint_for_another_number_of_images_is_refused(guidance: Guidance) -> None:
    """If it were not, two masks for one image would mask one CFG branch each."""
    masked = Steering(FakeControl(), random_hint(), Injection(mask=torch.rand(4, 1, 8, 8)))
    with pytest.raises(TetherError, match="mask has a batch of 4; expected 1 or 2"):
        make_step(FakeDenoiser(), [masked], guidance, 10)
    with pytest.raises(TetherError, match="hint has a batch of 4; expected 1 or 2"):
        make_step(FakeDenoiser(), [Steering(FakeControl(), random_hint(batch=4))], guidance, 10)


def test_extras_reach_each_branch() -> None:
    guidance = Guidance(random_text(1, ids=torch.ones(2, 3)), random_text(2, ids=torch.zeros(2, 3)), 2.0)
    both, conditional = FakeControl(), FakeControl()
    signal_of(
        (both, Injection(), random_hint()),
        (conditional, Injection(weighting="conditional"), random_hint()),
        guidance=guidance,
    )
    assert torch.equal(both.calls[0][2].extras["ids"], torch.cat([torch.zeros(2, 3), torch.ones(2, 3)]))
    assert conditional.calls[0][2] is guidance.conditional


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
def test_a_control_that_is_not_active_is_not_run(injection: Injection) -> None:
    silent, hint = FakeControl(), random_hint()
    assert signal_of((silent, injection, hint)) is None
    active = signal_of((silent, injection, hint), (FakeControl(), Injection(), hint))
    assert_equal(active, signal_of((FakeControl(), Injection(), hint)))
    assert not silent.calls


def test_a_window_counts_the_steps_of_the_run() -> None:
    control = FakeControl()
    step = make_step(FakeDenoiser(), [Steering(control, random_hint(), Injection(window=(0.25, 0.75)))], GUIDED, 4)
    calls = [(step(latents_of(), T, index), len(control.calls))[1] for index in range(4)]
    assert calls == [0, 1, 2, 2]


@pytest.mark.parametrize("injection", [Injection(0.5), Injection(sides=0.5), Injection(weighting="conditional")])
@pytest.mark.parametrize("guidance", [GUIDED, UNGUIDED])
def test_a_control_that_does_not_depend_on_the_step_is_run_once(injection: Injection, guidance: Guidance) -> None:
    class Adapter(FakeControl):
        per_step = False

    control, denoiser = Adapter(), FakeDenoiser()
    step = make_step(denoiser, [Steering(control, random_hint(), injection)], guidance, 10)
    for index in range(4):
        step(latents_of(), T, index)
    assert len(control.calls) == 1
    expected = signal_of((FakeControl(), injection, random_hint()), guidance=guidance)
    for *_, signal in denoiser.calls:
        assert_equal(signal, expected)


@pytest.mark.parametrize("guidance", [GUIDED, UNGUIDED])
@pytest.mark.parametrize("per_step", [True, False])
@pytest.mark.parametrize("settings", [{}, {"sides": 0.5}, {"weighting": "conditional"}, {"weighting": [0.5, 1.0, 2.0]}])
def test_each_step_has_the_signal_of_its_strength(guidance: Guidance, per_step: bool, settings: dict[str, Any]) -> None:
    control, denoiser = FakeControl(), FakeDenoiser()
    control.per_step = per_step  # type: ignore[misc]
    injection = Injection("0.25-0.75@0-0.5,0@0.5-0.75,1@0.75-1", **settings)
    step = make_step(denoiser, [Steering(control, random_hint(), injection)], guidance, 4)
    for index in range(4):
        step(latents_of(), T, index)
    for strength, (*_, signal) in zip([0.375, 0.625, 0.0, 1.0], denoiser.calls, strict=True):
        if strength == 0:
            assert signal is None
            continue
        fixed = Injection(strength, **settings)
        assert_equal(signal, signal_of((FakeControl(), fixed, random_hint()), guidance=guidance))
    assert len(control.calls) == (3 if per_step else 1)


def test_a_control_may_wrap_the_denoiser_and_the_engine_gets_it_wrapped() -> None:
    class Doubled(FakeDenoiser):
        def __init__(self, inner: Denoiser) -> None:
            super().__init__()
            self.inner = inner

        def predict(self, *args: Any) -> Tensor:  # type: ignore[override]
            return 2 * self.inner.predict(*args)

    class Wraps(FakeControl):
        def wrap(self, denoiser: Any) -> Any:
            return Doubled(denoiser)

    class Recording(Engine):
        def prepare(self, denoiser: Denoiser, controls: Any) -> Any:
            self.denoiser, self.controls = denoiser, list(controls)
            return denoiser, controls

    engine, control = Recording(), Wraps()
    steering = [Steering(control, random_hint())]
    ours = make_step(FakeDenoiser(), steering, UNGUIDED, 10, engine=engine)(latents_of(), T, 0)
    plain = make_step(FakeDenoiser(), [Steering(FakeControl(), random_hint())], UNGUIDED, 10)(latents_of(), T, 0)
    torch.testing.assert_close(ours, 2 * plain)
    assert isinstance(engine.denoiser, Doubled)
    assert engine.controls == [control]


def test_an_engines_control_needs_to_be_callable_and_nothing_else() -> None:
    class Bare:
        def __init__(self, control: Control) -> None:
            self.control = control

        def __call__(self, *args: Any) -> Signal:
            return self.control(*args)

    class Strips(Engine):
        def prepare(self, denoiser: Denoiser, controls: Any) -> Any:
            return denoiser, [Bare(control) for control in controls]

    steering = [Steering(FakeControl(pools_globally=True), random_hint())]
    bare = make_step(FakeDenoiser(), steering, GUIDED, 10, engine=Strips())(latents_of(), T, 0)
    torch.testing.assert_close(bare, make_step(FakeDenoiser(), steering, GUIDED, 10)(latents_of(), T, 0))


def test_a_compiled_control_is_a_control_too() -> None:
    unet = make_unet()
    control = ControlNet.from_unet(unet, hint_channels=(4, 4, 8, 8))
    nn.init.ones_(control.controlnet_mid_block.bias)
    inputs = make_inputs(unet)
    guidance, hint = Guidance(inputs["conditioning"]), control.encode(torch.rand(1, 3, 128, 64))
    denoiser = UNetDenoiser(unet, noise_process(NOISE_SCHEDULE))
    compiled: Any = torch.compile(control, backend="eager")
    with torch.no_grad():
        both = [
            make_step(denoiser, [Steering(one, hint)], guidance, 1)(inputs["latents"], inputs["timestep"], 0)
            for one in (compiled, control)
        ]
    torch.testing.assert_close(*both)


@torch.no_grad()
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("weighting", NAMES[1:])
def test_conditional_control_leaves_the_unconditional_prediction_exactly_the_bases(family: str, weighting: Any) -> None:
    class Halves(UNetDenoiser):
        def predict(self, *args: Any) -> Tensor:  # type: ignore[override]
            predictions.append(super().predict(*args))
            return predictions[-1]

    predictions: list[Tensor] = []
    unet = make_unet(family)
    control = ControlNet.from_unet(unet, hint_channels=(4, 4, 8, 8))
    randomize(control)
    inputs = make_inputs(unet)
    text = inputs["conditioning"]
    guidance = Guidance(text, Conditioning(torch.zeros_like(text.tokens), text.pooled, text.extras), 2.0)
    steering = [Steering(control, control.encode(torch.rand(1, 3, 128, 64)), Injection(weighting=weighting))]
    for controls in ([], steering):
        make_step(Halves(unet, noise_process(NOISE_SCHEDULE)), controls, guidance, 1)(
            inputs["latents"], inputs["timestep"], 0
        )
    base, controlled = predictions
    assert torch.equal(controlled[:2], base[:2])
    assert (controlled[2:] - base[2:]).abs().amax((1, 2, 3)).min() > 1e-4


def test_the_mask_of_a_control_that_pools_weights_what_is_pooled() -> None:
    """mean(mask * r), the same everywhere; a mask of ones changes nothing, and masks that add up to one add up."""
    control, hint = FakeControl(pools_globally=True), random_hint()
    mask = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))

    def masked(by: Tensor | None, **options: bool) -> Signal:
        denoiser = FakeDenoiser()
        one = Steering(control, hint, Injection(mask=by), **options)
        make_step(denoiser, [one], UNGUIDED, 10)(latents_of(), TIMESTEPS, 0)
        return denoiser.signal

    full = masked(None)  # of this control, before pooling
    weighted, rest, ones = masked(mask), masked(1 - mask), masked(torch.ones(1, 1, 8, 8))
    for point, r in full.items():
        step = 8 // r.shape[-1]
        averaged = mask.reshape(1, 1, 8 // step, step, 8 // step, step).mean((3, 5))
        expected = (averaged * r).mean((2, 3), keepdim=True)
        torch.testing.assert_close(weighted[point], expected.expand_as(r))
        torch.testing.assert_close(ones[point], r.mean((2, 3), keepdim=True).expand_as(r))
        torch.testing.assert_close(weighted[point] + rest[point], ones[point])
        after = masked(mask, masked_first=False)[point]  # by the first rules
        torch.testing.assert_close(after, averaged * r)


def test_outside_of_the_window_of_guidance_the_conditional_branch_alone_is_computed() -> None:
    denoiser, control, steps = FakeDenoiser(), FakeControl(), 4

    def made(denoiser: FakeDenoiser, control: FakeControl, guidance: Guidance, **more: Any) -> Any:
        return make_step(denoiser, [Steering(control, random_hint())], guidance, steps, **more)

    step = made(denoiser, control, GUIDED, guidance_window=(0.25, 0.75))
    guided = made(FakeDenoiser(), FakeControl(), GUIDED)
    plain = made(FakeDenoiser(), FakeControl(), Guidance(GUIDED.conditional))
    for index in range(steps):
        expected = (guided if index in (1, 2) else plain)(latents_of(index), T, index)
        assert torch.equal(step(latents_of(index), T, index), expected)
    assert [len(latents) for latents, *_ in denoiser.calls] == [2, 4, 4, 2]
    assert [len(latents) for latents, *_ in control.calls] == [2, 4, 4, 2]


def test_a_control_every_second_step_serves_the_next_and_is_gone_when_its_window_ends() -> None:
    denoiser, control = FakeDenoiser(), FakeControl()
    injection = Injection("0.5-1", window=(0, 5 / 8), every=2)
    step = make_step(denoiser, [Steering(control, random_hint(), injection)], UNGUIDED, 8)
    for index in range(8):
        signal = step(latents_of(index), T - 10 * index, index)
    assert signal.shape == (2, 4, 8, 8)
    assert [int(t[0]) for _, t, *_ in control.calls] == [100, 80, 60]
    signals = [signal for *_, signal in denoiser.calls]
    assert signals[5:] == [None, None, None]
    for index in range(5):
        made_at = index - index % 2
        full = FakeControl()(latents_of(made_at), T - 10 * made_at, UNGUIDED.conditional, random_hint())
        assert_equal(signals[index], full.scaled(injection.strength_at(index, 8)))


def test_every_must_be_a_whole_number_from_one() -> None:
    for wrong in (0, -1, 1.5, True, "2"):
        with pytest.raises(TetherError, match="every is"):
            Injection(every=wrong)  # type: ignore[arg-type]
