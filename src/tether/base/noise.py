"""The noise process of a base: how clean latents are noised, what the denoiser predicts, and what that says of them.

    z_t = a_t z_0 + s_t ε,   ε ~ N(0, 1)

| process            | a_t, s_t                    | the denoiser predicts           | paper             |
|--------------------|-----------------------------|---------------------------------|-------------------|
| `epsilon`          | sqrt(ā_t), sqrt(1 - ā_t)    | ε                               | arXiv:2006.11239  |
| `v_prediction`     | sqrt(ā_t), sqrt(1 - ā_t)    | v = a_t ε - s_t z_0             | arXiv:2202.00512  |
| `flow_prediction`  | 1 - σ_t, σ_t                | u = ε - z_0                     | arXiv:2210.02747  |

Each process is one object: forward process, target, clean estimate, loss weights. Samplers and training ask it, and
never the prediction type.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tether.errors import TetherError

__all__ = [
    "PREDICTION_TYPES",
    "Diffusion",
    "EpsilonDiffusion",
    "FlowMatching",
    "NoiseProcess",
    "VelocityDiffusion",
    "noise_process",
]

TRAIN_STEPS = 1000


class NoiseProcess(ABC):
    """z_t = a_t z_0 + s_t ε for timesteps t in 0 .. `steps` - 1.

    Args:
        schedule: what a diffusers scheduler is configured with: `num_train_timesteps`, `beta_start`, ...

    Attributes:
        prediction_type: diffusers' name for what the denoiser predicts.
        schedule: as given.
        steps: T, the number of timesteps.
    """

    prediction_type: str

    def __init__(self, schedule: Mapping[str, Any]) -> None:
        self.schedule = dict(schedule)
        self.steps = int(schedule.get("num_train_timesteps", TRAIN_STEPS))

    @abstractmethod
    def scales(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """a_t and s_t for timesteps `(B,)`, `(B,)` each, float32; fractions of timesteps are interpolated."""

    @abstractmethod
    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the denoiser is trained to predict, `(B, C, h, w)`, for z_0, ε and timesteps `(B,)`."""

    @abstractmethod
    def clean_estimate(self, noisy: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        """z_0 from z_t and the prediction, `(B, C, h, w)`."""

    @abstractmethod
    def loss_weights(self, timesteps: Tensor, min_snr_gamma: float | None = None, cap: float | None = None) -> Tensor:
        """w(t) of the squared error of the prediction, `(B,)` float32: 1 by default.

        Args:
            timesteps: `(B,)`.
            min_snr_gamma: γ of min-SNR weighting (arXiv:2303.09556).
            cap: weigh errors as those of velocity, up to this value; goes before `min_snr_gamma`.
        """

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z_t = a_t z_0 + s_t ε, `(B, C, h, w)`, for timesteps `(B,)`."""
        a, s = (_wide(scale, clean) for scale in self.scales(timesteps))
        return a * clean + s * noise

    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratio a_t² / s_t², `(B,)`, float64."""
        a, s = (scale.double() for scale in self.scales(timesteps))
        return (a / s).square()


class Diffusion(NoiseProcess):
    """Variance-preserving diffusion: a_t = sqrt(ā_t), s_t = sqrt(1 - ā_t), ā from the schedule's betas."""

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """ā_t, `(T,)` float32, as diffusers' DDIM scheduler computes it."""
        from diffusers import DDIMScheduler

        scheduler: Any = DDIMScheduler.from_config(self.schedule)
        return scheduler.alphas_cumprod

    def scales(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        alphas = self.alphas_cumprod.to(timesteps.device)
        if timesteps.is_floating_point():
            below = timesteps.long().clamp(max=len(alphas) - 2)
            bars = torch.lerp(alphas[below], alphas[below + 1], (timesteps - below).to(alphas.dtype))
        else:
            bars = alphas[timesteps]
        return bars**0.5, (1 - bars) ** 0.5

    def snr(self, timesteps: Tensor) -> Tensor:
        bars = self.alphas_cumprod[timesteps.cpu()].double()
        return bars / (1 - bars)


class EpsilonDiffusion(Diffusion):
    """The denoiser predicts the noise ε (arXiv:2006.11239)."""

    prediction_type = "epsilon"

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise

    def clean_estimate(self, noisy: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        a, s = (_wide(scale, noisy) for scale in self.scales(timesteps))
        return (noisy - s * prediction) / a

    def loss_weights(self, timesteps: Tensor, min_snr_gamma: float | None = None, cap: float | None = None) -> Tensor:
        snr = self.snr(timesteps)
        if cap is not None:
            return ((snr + 1) / snr).clamp(max=cap).float()
        if min_snr_gamma is None:
            return torch.ones(timesteps.shape)
        return (snr.clamp(max=min_snr_gamma) / snr).float()


class VelocityDiffusion(Diffusion):
    """The denoiser predicts the velocity v = a_t ε - s_t z_0 (arXiv:2202.00512)."""

    prediction_type = "v_prediction"

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        a, s = (_wide(scale, clean) for scale in self.scales(timesteps))
        return a * noise - s * clean

    def clean_estimate(self, noisy: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        a, s = (_wide(scale, noisy) for scale in self.scales(timesteps))
        return a * noisy - s * prediction

    def loss_weights(self, timesteps: Tensor, min_snr_gamma: float | None = None, cap: float | None = None) -> Tensor:
        if min_snr_gamma is None:
            return torch.ones(timesteps.shape)
        snr = self.snr(timesteps)
        return (snr.clamp(max=min_snr_gamma) / (snr + 1)).float()


class FlowMatching(NoiseProcess):
    """Rectified flow: z_t = (1 - σ_t) z_0 + σ_t ε, and the denoiser predicts u = ε - z_0 (arXiv:2210.02747).

    Timesteps are σ times T, as diffusers' flow-matching schedulers pass them to the denoiser.
    """

    prediction_type = "flow_prediction"

    def scales(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        sigmas = timesteps.float() / self.steps
        return 1 - sigmas, sigmas

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise - clean

    def clean_estimate(self, noisy: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        return noisy - _wide(self.scales(timesteps)[1], noisy) * prediction

    def loss_weights(self, timesteps: Tensor, min_snr_gamma: float | None = None, cap: float | None = None) -> Tensor:
        if min_snr_gamma is None:
            return torch.ones(timesteps.shape)
        # An error e of u is an error σ e of z_0; min-SNR clips SNR = ((1 - σ) / σ)² on errors of z_0.
        sigmas = self.scales(timesteps)[1].double()
        return (sigmas.square() * self.snr(timesteps).clamp(max=min_snr_gamma)).float().cpu()


PREDICTION_TYPES: dict[str, type[NoiseProcess]] = {
    process.prediction_type: process for process in (EpsilonDiffusion, VelocityDiffusion, FlowMatching)
}
"""Every noise process by diffusers' name of what its denoiser predicts."""


def noise_process(schedule: Mapping[str, Any]) -> NoiseProcess:
    """The noise process of a scheduler's settings; `prediction_type` is "epsilon" by default.

    Raises:
        TetherError: for a prediction type that is not supported.
    """
    name = schedule.get("prediction_type", "epsilon")
    if name not in PREDICTION_TYPES:
        known = ", ".join(PREDICTION_TYPES)
        raise TetherError(f"prediction type {name!r} is not supported: expected one of {known}")
    return PREDICTION_TYPES[name](schedule)


def _wide(scale: Tensor, like: Tensor) -> Tensor:
    """`(B,)` as `(B, 1, 1, 1)`, of the device and dtype of `like`."""
    return scale.to(like.device, like.dtype).reshape(-1, *[1] * (like.ndim - 1))
