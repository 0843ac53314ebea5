"""The noise processes obey their equations, and agree with diffusers' schedulers."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from tether.base.noise import PREDICTION_TYPES, Diffusion, NoiseProcess, noise_process
from tether.errors import TetherError

from ..tiny import NOISE_SCHEDULE

TIMESTEPS = torch.tensor([1, 20, 500, 998])
EACH = pytest.mark.parametrize("name", PREDICTION_TYPES)
DIFFUSIONS = pytest.mark.parametrize("name", ["epsilon", "v_prediction"])


def process_of(name: str, **changes: object) -> NoiseProcess:
    return noise_process(NOISE_SCHEDULE | {"prediction_type": name} | changes)


def draw() -> tuple[torch.Tensor, torch.Tensor]:
    """z_0 and ε."""
    random = torch.Generator().manual_seed(0)
    return torch.randn(4, 4, 8, 8, generator=random), torch.randn(4, 4, 8, 8, generator=random)


@EACH
def test_noised_latents_are_a_z0_plus_s_epsilon(name: str) -> None:
    clean, noise = draw()
    a, s = process_of(name).scales(TIMESTEPS)
    expected = [float(a[k]) * clean[k] + float(s[k]) * noise[k] for k in range(4)]
    torch.testing.assert_close(process_of(name).add_noise(clean, noise, TIMESTEPS), torch.stack(expected))


@DIFFUSIONS
def test_diffusion_keeps_the_variance(name: str) -> None:
    a, s = process_of(name).scales(torch.arange(1000))
    torch.testing.assert_close(a**2 + s**2, torch.ones(1000))


@DIFFUSIONS
def test_noised_latents_are_those_of_diffusers_bit_for_bit(name: str) -> None:
    clean, noise = draw()
    scheduler = DDIMScheduler(**NOISE_SCHEDULE, prediction_type=name)
    assert torch.equal(
        process_of(name).add_noise(clean, noise, TIMESTEPS),
        scheduler.add_noise(clean, noise, TIMESTEPS),  # type: ignore[arg-type]
    )


def test_the_velocity_is_that_of_diffusers_bit_for_bit() -> None:
    clean, noise = draw()
    scheduler = DDIMScheduler(**NOISE_SCHEDULE, prediction_type="v_prediction")
    expected = scheduler.get_velocity(clean, noise, TIMESTEPS)  # type: ignore[arg-type]
    assert torch.equal(process_of("v_prediction").target(clean, noise, TIMESTEPS), expected)


def test_flow_matching_noises_as_diffusers_does() -> None:
    clean, noise = draw()
    scheduler = FlowMatchEulerDiscreteScheduler()
    timesteps = scheduler.timesteps[[0, 10, 500, 999]]
    process = noise_process(json.loads(scheduler.to_json_string()))  # as its folder says it
    assert process.prediction_type == "flow_prediction"
    expected = scheduler.scale_noise(clean, timesteps, noise)  # type: ignore[arg-type]
    torch.testing.assert_close(process.add_noise(clean, noise, timesteps), expected, rtol=1e-6, atol=1e-6)


@DIFFUSIONS
def test_the_clean_estimate_is_that_of_a_step_of_ddim(name: str) -> None:
    noisy, prediction = draw()
    scheduler = DDIMScheduler(**NOISE_SCHEDULE, prediction_type=name)
    scheduler.set_timesteps(1000)
    for timestep in TIMESTEPS:
        expected = scheduler.step(prediction, int(timestep), noisy).pred_original_sample  # type: ignore[union-attr]
        found = process_of(name).clean_estimate(noisy, prediction, timestep.reshape(1))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@EACH
def test_the_clean_estimate_inverts_a_perfect_prediction(name: str) -> None:
    process = process_of(name)
    clean, noise = (tensor.double() for tensor in draw())
    noisy = process.add_noise(clean, noise, TIMESTEPS)
    found = process.clean_estimate(noisy, process.target(clean, noise, TIMESTEPS), TIMESTEPS)
    torch.testing.assert_close(found, clean, rtol=1e-5, atol=1e-5)


@EACH
def test_snr_is_the_ratio_of_the_squared_scales(name: str) -> None:
    a, s = (scale.double() for scale in process_of(name).scales(TIMESTEPS))
    torch.testing.assert_close(process_of(name).snr(TIMESTEPS), (a / s) ** 2, rtol=1e-3, atol=0)


@EACH
def test_min_snr_weights_errors_of_the_clean_latents_by_clipped_snr(name: str) -> None:
    """w_t e² = min(SNR, γ) |∂z_0 / ∂prediction|² e², whatever the denoiser predicts (arXiv:2303.09556, section 3.4)."""
    process, prediction = process_of(name), torch.zeros(4, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    process.clean_estimate(torch.zeros_like(prediction), prediction, TIMESTEPS).sum().backward()
    assert prediction.grad is not None
    expected = process.snr(TIMESTEPS).clamp(max=5) * prediction.grad.flatten().square()
    found = process.loss_weights(TIMESTEPS, min_snr_gamma=5)
    torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=0)


@EACH
def test_without_gamma_every_timestep_weighs_one(name: str) -> None:
    assert process_of(name).loss_weights(TIMESTEPS).tolist() == [1.0] * 4


def test_errors_of_noise_are_weighted_as_errors_of_velocity_up_to_a_cap() -> None:
    """v - v' = (ε - ε') sqrt((SNR + 1) / SNR) for the same z_t, since z_0 is a function of z_t and ε."""
    process = process_of("epsilon")
    a, _ = process.scales(TIMESTEPS)
    found = process.loss_weights(TIMESTEPS, min_snr_gamma=5, velocity_cap=1e6)
    torch.testing.assert_close(found, 1 / a**2, rtol=1e-3, atol=0)
    assert process.loss_weights(TIMESTEPS, velocity_cap=3)[2:].tolist() == [3, 3]
    assert process_of("v_prediction").loss_weights(TIMESTEPS, velocity_cap=3).tolist() == [1.0] * 4


@EACH
def test_weights_are_finite_where_the_signal_is_zero(name: str) -> None:
    process = process_of(name, rescale_betas_zero_snr=True)
    last = torch.tensor([1000.0 if name == "flow_prediction" else 999])
    last = last if name == "flow_prediction" else last.long()
    assert float(process.snr(last)) < 1e-6
    weights = [process.loss_weights(last, min_snr_gamma=5), process.loss_weights(last, velocity_cap=9)]
    assert torch.cat(weights).isfinite().all()


def test_timesteps_between_two_interpolate_the_cumulative_alphas() -> None:
    process = process_of("epsilon")
    assert isinstance(process, Diffusion)
    a, _ = process.scales(torch.tensor([10.0, 10.25, 999.0]))
    bars = process.alphas_cumprod
    torch.testing.assert_close(a**2, torch.stack([bars[10], bars[10] * 0.75 + bars[11] * 0.25, bars[999]]))


def test_noise_is_predicted_by_default() -> None:
    assert noise_process({}).prediction_type == "epsilon"
    assert noise_process({}).steps == 1000


def test_an_unknown_prediction_type_is_refused() -> None:
    with pytest.raises(TetherError, match=r"'sample' is not a supported prediction type: expected one of epsilon, v_"):
        noise_process({"prediction_type": "sample"})
