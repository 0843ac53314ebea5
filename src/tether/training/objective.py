"""The objective: Stable Diffusion's loss, with the condition added where there is one (section 3.4).

    L = E[ w(t) || target - ε_θ(z_t, t, c_t, c_f) ||² ],   z_t = sqrt(ā_t) z_0 + sqrt(1 - ā_t) ε

The target is ε for epsilon prediction and sqrt(ā_t) ε - sqrt(1 - ā_t) z_0 for v-prediction. The weight w(t) is 1, or
min-SNR's: min(SNR, γ)/SNR for ε and min(SNR, γ)/(SNR + 1) for v, with SNR = ā_t/(1 - ā_t) (Hang et al. 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["diffusion_loss", "drop_prompts", "loss_weights"]


def loss_weights(alphas_cumprod: Tensor, timesteps: Tensor, prediction_type: str, gamma: float | None) -> Tensor:
    """w(t) for timesteps `(B,)`: ones without a gamma, min-SNR's weights with one.

    Raises:
        ValueError: where the prediction type is neither "epsilon" nor "v_prediction".
    """
    if prediction_type not in ("epsilon", "v_prediction"):
        raise ValueError(f"prediction_type must be epsilon or v_prediction, not {prediction_type!r}")
    if gamma is None:
        return torch.ones(timesteps.shape)
    alphas = alphas_cumprod[timesteps.cpu()].double()
    snr = alphas / (1 - alphas)
    clipped = snr.clamp(max=gamma)
    return (clipped / snr if prediction_type == "epsilon" else clipped / (snr + 1)).float()


def diffusion_loss(
    predict: Callable[[Tensor, Tensor], Tensor],
    latents: Tensor,
    schedule: Any,
    *,
    generator: torch.Generator | None = None,
    min_snr_gamma: float | None = None,
    noise_offset: float = 0.0,
    per_sample: bool = False,
) -> Tensor:
    """The loss of a batch of clean latents at random timesteps.

    Args:
        predict: the denoiser, `(noisy latents (B, 4, h, w), timesteps (B,)) -> (B, 4, h, w)`.
        latents: clean latents `(B, 4, h, w)`, scaled.
        schedule: a diffusers scheduler with `alphas_cumprod`, `add_noise` and `config.prediction_type`.
        generator: source of the noise and the timesteps, on the CPU.
        min_snr_gamma: γ of min-SNR weighting (5 in the paper); None weighs every timestep alike.
        noise_offset: deviation of one more noise value a channel that is the same over the whole picture.
        per_sample: return one loss a sample, `(B,)`, in place of their mean.

    Returns:
        A scalar, or `(B,)`; float32.
    """
    device = latents.device
    noise = torch.randn(latents.shape, generator=generator).to(device)
    if noise_offset:
        noise = noise + noise_offset * torch.randn(*latents.shape[:2], 1, 1, generator=generator).to(device)
    timesteps = torch.randint(len(schedule.alphas_cumprod), (len(latents),), generator=generator).to(device)
    noisy = schedule.add_noise(latents.float(), noise, timesteps)
    prediction_type = schedule.config.prediction_type
    weights = loss_weights(schedule.alphas_cumprod, timesteps, prediction_type, min_snr_gamma).to(device)
    target = noise if prediction_type == "epsilon" else schedule.get_velocity(latents.float(), noise, timesteps)
    error = (predict(noisy.to(latents.dtype), timesteps).float() - target).square().mean(dim=(1, 2, 3))
    losses = weights * error
    return losses if per_sample else losses.mean()


def drop_prompts(prompts: Sequence[str], share: float, generator: torch.Generator) -> list[str]:
    """Replaces each prompt by the empty one with probability `share` (0.5 in the paper, section 3.4)."""
    kept = torch.rand(len(prompts), generator=generator) >= share
    return [prompt if keep else "" for prompt, keep in zip(prompts, kept.tolist(), strict=True)]
