"""The loss, and what of base and control it trains."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch

from tether.base.noise import Diffusion, noise_process
from tether.errors import TetherError
from tether.training.batch import Batch, sample_generators
from tether.training.objective import DECODER_PARTS, ControlObjective, diffusion_loss, drop_prompts

from ..tiny import NOISE_SCHEDULE
from .small import Brightness


def process(prediction_type: str = "epsilon") -> Diffusion:
    found = noise_process(NOISE_SCHEDULE | {"prediction_type": prediction_type})
    assert isinstance(found, Diffusion)
    return found


def make(tiny: ModuleType, seen: int = 4, **options: Any) -> tuple[ControlObjective, torch.Tensor]:
    """An objective whose control has learned something, and its losses for a batch."""
    base = tiny.make_base()
    control = tiny.make_control(base)
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in control.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=random))
    objective = ControlObjective(base, control, **options)
    return objective, objective(tiny.batches(range(seen)), sample_generators(0, range(seen)))[0]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_denoiser_that_knows_the_answer_has_no_loss(prediction_type: str) -> None:
    latents, known = torch.randn(3, 4, 8, 8), process(prediction_type)

    def perfect(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha = known.alphas_cumprod[t].view(-1, 1, 1, 1)
        noise = (noisy - alpha.sqrt() * latents) / (1 - alpha).sqrt()
        return noise if prediction_type == "epsilon" else alpha.sqrt() * noise - (1 - alpha).sqrt() * latents

    assert diffusion_loss(perfect, latents, known).item() == pytest.approx(0, abs=1e-6)


def test_velocity_weights_make_the_error_of_noise_that_of_velocity() -> None:
    known, t = process(), torch.tensor([20, 500, 900])
    alpha = known.alphas_cumprod[t].view(-1, 1, 1, 1)
    latents, noise, wrong = torch.randn(3, 3, 4, 8, 8)
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    foreseen = (noisy - (1 - alpha).sqrt() * wrong) / alpha.sqrt()
    velocities = [alpha.sqrt() * n - (1 - alpha).sqrt() * x for n, x in ((noise, latents), (wrong, foreseen))]
    as_velocity = (velocities[0] - velocities[1]).square().mean((1, 2, 3))
    as_noise = (noise - wrong).square().mean((1, 2, 3))
    weights = known.loss_weights(t, velocity_cap=1e6)
    torch.testing.assert_close(weights * as_noise, as_velocity, rtol=1e-3, atol=0)
    assert known.loss_weights(t, velocity_cap=3).tolist()[1:] == [3, 3]


def timesteps_of(batch: int, generator: torch.Generator, **settings: Any) -> torch.Tensor:
    """The timesteps `(batch,)` that the loss shows to the denoiser."""
    seen: list[torch.Tensor] = []

    def watching(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(t)
        return noisy

    diffusion_loss(watching, torch.zeros(batch, 1, 2, 2), process(), randomness=generator, **settings)
    return seen[0]


def test_stratified_timesteps_spread_over_the_schedule_and_are_uniform_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([timesteps_of(8, generator, stratified=True) for _ in range(500)])
    assert (drawn.sort(dim=1).values.diff(dim=1) == 125).all()  # 1,000 timesteps, 8 of them a batch
    follows = drawn.diff(dim=1) % 1000 == 125  # so it would be in order; by chance it is in one of seven
    assert follows.float().mean().item() == pytest.approx(1 / 7, abs=0.03)
    for place in (0, 7):
        counts = torch.histc(drawn[:, place].float(), bins=4, min=0, max=1000)
        assert ((counts - 125).abs() < 4 * (500 * 0.25 * 0.75) ** 0.5).all()  # four deviations of a binomial


def test_a_shift_moves_timesteps_to_strong_noise_by_the_paper_s_rule() -> None:
    uniform, shifted = (
        timesteps_of(1000, torch.Generator().manual_seed(0), shift=shift).double() / 1000 for shift in (1.0, 3.0)
    )
    torch.testing.assert_close(shifted, 3 * uniform / (1 + 2 * uniform), rtol=0, atol=1e-3)
    assert shifted.median().item() == pytest.approx(3 / 4, abs=0.02)  # s / (s + 1)


@pytest.mark.parametrize(("prediction_type", "wanted"), [("epsilon", (0, 9)), ("flow_prediction", (1, 10))])
def test_a_flow_is_trained_where_sampling_begins_and_not_where_there_is_no_noise(
    prediction_type: str, wanted: tuple[int, int]
) -> None:
    process = noise_process({"num_train_timesteps": 10, "prediction_type": prediction_type})
    seen: list[int] = []

    def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        seen.extend(timesteps.tolist())
        return noisy

    diffusion_loss(predict, torch.zeros(400, 4, 1, 1), process, randomness=torch.Generator().manual_seed(0))
    assert (min(seen), max(seen)) == wanted


def test_noise_offset_adds_noise_of_its_deviation_to_whole_channels() -> None:
    seen = []

    def keep(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha = process().alphas_cumprod[t].view(-1, 1, 1, 1)
        seen.append(noisy / (1 - alpha).sqrt())  # latents are zero: what is left is the noise
        return noisy

    zero = torch.zeros(500, 4, 8, 8)
    for offset in (0.0, 0.5):
        diffusion_loss(keep, zero, process(), randomness=torch.Generator().manual_seed(0), noise_offset=offset)
    spread = [noise.mean(dim=(2, 3)).var().item() for noise in seen]
    assert spread[0] == pytest.approx(1 / 64, rel=0.1)
    assert spread[1] == pytest.approx(1 / 64 + 0.25, rel=0.1)


def test_with_a_generator_a_sample_its_loss_does_not_depend_on_its_batch(tiny: ModuleType) -> None:
    _, together = make(tiny, 4)
    _, fewer = make(tiny, 2)
    torch.testing.assert_close(together[:2], fewer, rtol=1e-5, atol=1e-6)


def test_about_the_wanted_share_of_prompts_is_dropped() -> None:
    generators = sample_generators(0, range(2000))
    words, empty = torch.ones(2000, 3, 2), torch.zeros(1, 3, 2)
    kept = drop_prompts(words, empty, 0.3, generators)
    per_sample = kept.flatten(1)
    assert bool(((per_sample == 0).all(1) | (per_sample == 1).all(1)).all())
    assert kept.mean().item() == pytest.approx(0.7, abs=0.04)


def test_the_control_is_trained_whole_and_the_base_not_at_all(tiny: ModuleType) -> None:
    objective, losses = make(tiny)
    losses.mean().backward()
    assert {id(p) for p in objective.parameters()} == {id(p) for p in objective.control.parameters()}
    assert all(p.grad is not None and bool(p.grad.any()) for p in objective.parameters())
    assert all(p.grad is None and not p.requires_grad for p in objective.base.unet.parameters())


def test_only_middle_trains_everything_but_the_skips_zero_convolutions_which_stay_as_they_are(
    tiny: ModuleType,
) -> None:
    objective, losses = make(tiny, only_middle=True)
    before, _ = make(tiny)
    losses.mean().backward()
    zeros = objective.control.controlnet_down_blocks
    skips = {id(p) for p in zeros.parameters()}
    assert all(not p.requires_grad for p in zeros.parameters())
    assert any(bool(p.any()) for p in zeros.parameters())
    for name, tensor in before.control.controlnet_down_blocks.state_dict().items():
        assert torch.equal(zeros.state_dict()[name], tensor)
    assert all(p.grad is not None for p in objective.parameters() if id(p) not in skips)
    batch = tiny.batches(range(2))
    hint = objective.control.encode(batch.conditions)
    signal = objective.control(batch.latents, 10, batch.conditioning, hint)
    assert [point for point, tensor in signal.items() if bool(tensor.any())] == ["middle"]


def test_unlock_decoder_trains_the_decoder_and_nothing_else_of_the_base(tiny: ModuleType) -> None:
    objective, losses = make(tiny, unlock_decoder=True)
    losses.mean().backward()
    for name, parameter in objective.base.unet.named_parameters():
        assert (parameter.grad is not None) == name.startswith(DECODER_PARTS), name
    trained = {id(p) for p in objective.parameters()}
    assert all(id(p) in trained for n, p in objective.base.unet.named_parameters() if n.startswith(DECODER_PARTS))


def test_a_control_of_any_family_is_trained_and_gets_gradients(tiny: ModuleType) -> None:
    objective = ControlObjective(tiny.make_base(), Brightness())
    losses, _ = objective(tiny.batches(range(3)), sample_generators(0, range(3)))
    losses.mean().backward()
    (parameter,) = objective.parameters()
    assert parameter.grad is not None
    assert bool(parameter.grad.all())


def test_only_middle_is_refused_for_another_family_than_controlnet(tiny: ModuleType) -> None:
    with pytest.raises(TetherError, match="only_middle is for a ControlNet; brightness has no skips"):
        ControlObjective(tiny.make_base(), Brightness(), only_middle=True)


def test_auxiliary_losses_see_the_batch_after_the_forward_pass(tiny: ModuleType) -> None:
    base = tiny.make_base()
    control = tiny.make_control(base)
    order: list[str] = []
    control.mid_block.register_forward_hook(lambda *_: order.append("forward"))

    def auxiliary(batch: Batch) -> torch.Tensor:
        order.append("auxiliary")
        return batch.latents.mean()

    batch = tiny.batches(range(2))
    losses, further = ControlObjective(base, control, {"mean": auxiliary})(batch, sample_generators(0, range(2)))
    assert order == ["forward", "auxiliary"]
    assert losses.shape == (2,)
    assert torch.equal(further["mean"], batch.latents.mean())


def test_training_does_not_look_at_the_values_of_conditions_and_inference_does(tiny: ModuleType) -> None:
    objective, _ = make(tiny, 1)
    with pytest.raises(TetherError, match="condition has values"):
        objective.control.encode(torch.full((1, 3, 64, 64), 7.0))
    batch = replace(tiny.batches(range(1)), conditions=torch.full((1, 3, 64, 64), 7.0))
    losses, _ = objective(batch, sample_generators(0, range(1)))
    assert losses.shape == (1,)
    with pytest.raises(TetherError, match="condition has values"):
        objective.control.encode(torch.full((1, 3, 64, 64), 7.0))
