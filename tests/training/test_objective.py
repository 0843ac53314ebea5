"""The loss, and what of base and control it trains."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import nn

from tether.training import objective as module
from tether.training.batch import sample_generators
from tether.training.objective import (
    DECODER_PARTS,
    ControlObjective,
    diffusion_loss,
    drop_text_states,
    fingerprint,
    loss_weights,
)


def schedule(prediction_type: str = "epsilon") -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction_type
    )


def make(tiny: ModuleType, seen: int = 4, **options: Any) -> tuple[ControlObjective, torch.Tensor]:
    """An objective whose control has learned something, and its losses for a batch."""
    base = tiny.make_base()
    control = tiny.make_control(base)
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in control.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=random))
    objective = ControlObjective(base, control, **options)
    batch = tiny.batches(range(seen))
    generators = sample_generators(0, range(seen))
    return objective, objective(batch.latents, batch.conditions, batch.text_states, generators)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_denoiser_that_knows_the_answer_has_no_loss(prediction_type: str) -> None:
    latents, known = torch.randn(3, 4, 8, 8), schedule(prediction_type)

    def perfect(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha = known.alphas_cumprod[t].view(-1, 1, 1, 1)
        noise = (noisy - alpha.sqrt() * latents) / (1 - alpha).sqrt()
        return noise if prediction_type == "epsilon" else alpha.sqrt() * noise - (1 - alpha).sqrt() * latents

    assert diffusion_loss(perfect, latents, known).item() == pytest.approx(0, abs=1e-6)


def test_velocity_weights_make_the_error_of_noise_that_of_velocity() -> None:
    known, t = schedule(), torch.tensor([20, 500, 900])
    alpha = known.alphas_cumprod[t].view(-1, 1, 1, 1)
    latents, noise, wrong = torch.randn(3, 3, 4, 8, 8)
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    foreseen = (noisy - (1 - alpha).sqrt() * wrong) / alpha.sqrt()
    velocities = [alpha.sqrt() * n - (1 - alpha).sqrt() * x for n, x in ((noise, latents), (wrong, foreseen))]
    as_velocity = (velocities[0] - velocities[1]).square().mean((1, 2, 3))
    as_noise = (noise - wrong).square().mean((1, 2, 3))
    weights = loss_weights(known.alphas_cumprod, t, "epsilon", None, velocity_cap=1e6)
    torch.testing.assert_close(weights * as_noise, as_velocity, rtol=1e-3, atol=0)
    assert loss_weights(known.alphas_cumprod, t, "epsilon", None, velocity_cap=3).tolist()[1:] == [3, 3]


def test_min_snr_weights_are_those_of_the_paper() -> None:
    alphas = torch.tensor([0.99, 0.5, 0.1])  # SNR 99, 1, 1/9
    t = torch.arange(3)
    torch.testing.assert_close(loss_weights(alphas, t, "epsilon", 5.0), torch.tensor([5 / 99, 1.0, 1.0]))
    torch.testing.assert_close(
        loss_weights(alphas, t, "v_prediction", 5.0), torch.tensor([5 / 100, 1 / 2, (1 / 9) / (1 / 9 + 1)])
    )
    torch.testing.assert_close(loss_weights(alphas, t, "epsilon", None), torch.ones(3))


def timesteps_of(batch: int, generator: torch.Generator, **settings: Any) -> torch.Tensor:
    """The timesteps `(batch,)` that the loss shows to the denoiser."""
    seen: list[torch.Tensor] = []

    def watching(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(t)
        return noisy

    diffusion_loss(watching, torch.zeros(batch, 1, 2, 2), schedule(), generator=generator, **settings)
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


def test_noise_offset_adds_noise_of_its_deviation_to_whole_channels() -> None:
    seen = []

    def keep(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha = schedule().alphas_cumprod[t].view(-1, 1, 1, 1)
        seen.append(noisy / (1 - alpha).sqrt())  # latents are zero: what is left is the noise
        return noisy

    zero = torch.zeros(500, 4, 8, 8)
    for offset in (0.0, 0.5):
        diffusion_loss(keep, zero, schedule(), generator=torch.Generator().manual_seed(0), noise_offset=offset)
    spread = [noise.mean(dim=(2, 3)).var().item() for noise in seen]
    assert spread[0] == pytest.approx(1 / 64, rel=0.1)
    assert spread[1] == pytest.approx(1 / 64 + 0.25, rel=0.1)


def test_with_a_generator_a_sample_its_loss_does_not_depend_on_its_batch(tiny: ModuleType) -> None:
    _, together = make(tiny, 4)
    _, fewer = make(tiny, 2)
    torch.testing.assert_close(together[:2], fewer, rtol=1e-5, atol=1e-6)


def test_no_two_samples_share_their_random_numbers() -> None:
    drawn = {torch.randint(2**62, (), generator=g).item() for g in sample_generators(3, range(20_000))}
    assert len(drawn) == 20_000


def test_about_the_wanted_share_of_prompts_is_dropped() -> None:
    generators = sample_generators(0, range(2000))
    words, empty = torch.ones(2000, 3, 2), torch.zeros(1, 3, 2)
    kept = drop_text_states(words, empty, 0.3, generators)
    per_sample = kept.flatten(1)
    assert bool(((per_sample == 0).all(1) | (per_sample == 1).all(1)).all())
    assert kept.mean().item() == pytest.approx(0.7, abs=0.04)


def test_the_control_is_trained_whole_and_the_base_not_at_all(tiny: ModuleType) -> None:
    objective, losses = make(tiny)
    losses.mean().backward()
    assert {id(p) for p in objective.parameters()} == {id(p) for p in objective.control.parameters()}
    assert all(p.grad is not None and bool(p.grad.any()) for p in objective.parameters())
    assert all(p.grad is None and not p.requires_grad for p in objective.base.unet.parameters())


def test_only_middle_trains_everything_but_the_skips_zero_convolutions_which_stay_zero(tiny: ModuleType) -> None:
    objective, losses = make(tiny, only_middle=True)
    losses.mean().backward()
    skips = {id(p) for p in objective.control.controlnet_down_blocks.parameters()}
    assert all(not p.requires_grad and not bool(p.any()) for p in objective.control.controlnet_down_blocks.parameters())
    assert all(p.grad is not None for p in objective.parameters() if id(p) not in skips)
    batch = tiny.batches(range(2))
    hint = objective.control.encode(batch.conditions)
    residuals = objective.control(batch.latents, 10, batch.text_states, hint)
    assert not any(bool(r.any()) for r in residuals.down)
    assert bool(residuals.middle.any())


def test_unlock_decoder_trains_the_decoder_and_nothing_else_of_the_base(tiny: ModuleType) -> None:
    objective, losses = make(tiny, unlock_decoder=True)
    losses.mean().backward()
    for name, parameter in objective.base.unet.named_parameters():
        assert (parameter.grad is not None) == name.startswith(DECODER_PARTS), name
    trained = {id(p) for p in objective.parameters()}
    assert all(id(p) in trained for n, p in objective.base.unet.named_parameters() if n.startswith(DECODER_PARTS))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_gradients_are_those_of_plain_convolutions(
    tiny: ModuleType, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients = []
    for plain in (False, True):
        if plain:
            monkeypatch.setattr(module, "locked_convolutions", module.nullcontext)
        objective, losses = make(tiny)
        if checkpointing and not plain:
            objective.base.unet.enable_gradient_checkpointing()
            objective.control.enable_gradient_checkpointing()
            batch = tiny.batches(range(4))
            losses = objective(batch.latents, batch.conditions, batch.text_states, sample_generators(0, range(4)))
        losses.mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in objective.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


def test_nothing_is_kept_of_what_only_the_gradients_of_locked_convolutions_would_need(tiny: ModuleType) -> None:
    unet = tiny.make_base().unet
    conv = next(m for m in unet.up_blocks.modules() if isinstance(m, nn.Conv2d))
    x = torch.randn(1, conv.in_channels, 8, 8, requires_grad=True)
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), module.locked_convolutions():
        y = conv(x)
    assert y.requires_grad
    assert x.data_ptr() not in kept
    assert kept == [conv.weight.data_ptr()]


def in_bf16(tiny: ModuleType, **options: Any) -> tuple[ControlObjective, int]:
    """An objective after a forward and a backward pass in mixed precision, and how many bytes were kept in between."""
    objective, _ = make(tiny, **options)
    parameters = {p.untyped_storage().data_ptr() for p in (*objective.parameters(), *objective.base.unet.parameters())}
    batch, kept = tiny.batches(range(4)), {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        losses = objective(batch.latents, batch.conditions, batch.text_states, sample_generators(0, range(4)))
    losses.mean().backward()
    return objective, sum(kept.values())


@pytest.mark.parametrize("options", [{}, {"unlock_decoder": True}, {"only_middle": True}], ids=str)
def test_in_mixed_precision_no_copies_of_weights_are_kept_and_the_gradients_are_the_same(
    tiny: ModuleType, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, kept = in_bf16(tiny, **options)
    monkeypatch.setattr(module, "uncopied_weights", module.nullcontext)
    plain, more = in_bf16(tiny, **options)
    layers = [m for m in objective.modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and m.weight.requires_grad]
    copies = 2 * sum(layer.weight.numel() for layer in layers)
    # Autocast's copy is not kept either where the layer's input takes no gradient: text states, the embedding of t.
    assert 0.9 * copies < more - kept <= copies
    for ours, theirs in zip(objective.parameters(), plain.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None and theirs.grad is not None:
            assert ours.grad.dtype == torch.float32
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=0.02, atol=0.02 * float(theirs.grad.abs().max()))


def test_a_fingerprint_tells_any_change_and_no_change_of_memory_layout() -> None:
    conv = nn.Conv2d(4, 8, 3)
    before = fingerprint({"conv": conv})
    assert fingerprint({"conv": conv.to(memory_format=torch.channels_last)}) == before  # type: ignore[call-overload]
    with torch.no_grad():
        conv.bias[0] = torch.nextafter(conv.bias[0], torch.tensor(9.0))  # type: ignore[index]
    assert fingerprint({"conv": conv}) != before
    assert fingerprint({"other": conv}) != fingerprint({"conv": conv})
