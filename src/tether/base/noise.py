"""The noise process of a base: how clean latents are noised, what the denoiser predicts, and how z_0 follows from it.

    z_t = a_t z_0 + s_t ε,   ε ~ N(0, 1)

| `prediction_type`  | a_t, s_t                    | the denoiser predicts           | paper             |
|--------------------|-----------------------------|---------------------------------|-------------------|
| `epsilon`          | sqrt(ā_t), sqrt(1 - ā_t)    | ε                               | arXiv:2006.11239  |
| `v_prediction`     | sqrt(ā_t), sqrt(1 - ā_t)    | v = a_t ε - s_t z_0             | arXiv:2202.00512  |
| `flow_prediction`  | 1 - σ_t, σ_t                | u = ε - z_0                     | arXiv:2210.02747  |

Each process is one class with the forward process, the training target, the clean estimate and the loss weights.
Samplers and training call these, and never branch on the prediction type.
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
"""T, if the schedule does not set `num_train_timesteps`; diffusers' default."""


class NoiseProcess(ABC):
    """z_t = a_t z_0 + s_t ε for timesteps t in 0 .. T - 1, given as a tensor `(B,)`.

    Args:
        schedule: the configuration of a diffusers scheduler: `num_train_timesteps`, `beta_start`, ...

    Attributes:
        prediction_type: diffusers' name of what the denoiser predicts.
        schedule: a copy of the argument.
        steps: T, the number of timesteps.
        first: the first of the T timesteps that are trained.
    """

    prediction_type: str
    first: int = 0

    def __init__(self, schedule: Mapping[str, Any]) -> None:
        self.schedule = dict(schedule)
        self.steps = int(schedule.get("num_train_timesteps", TRAIN_STEPS))

    @abstractmethod
    def scales(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """a_t and s_t, `(B,)` float32, on the device of the timesteps. Fractional timesteps are interpolated."""

    @abstractmethod
    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratio a_t² / s_t², `(B,)` float64, on the CPU (some accelerators have no float64)."""

    @abstractmethod
    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the denoiser is trained to predict, `(B, C, h, w)`, from z_0 and ε of this shape."""

    @abstractmethod
    def clean_estimate(self, noisy: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        """z_0, `(B, C, h, w)`, from z_t and a prediction of this shape."""

    def loss_weights(
        self, timesteps: Tensor, min_snr_gamma: float | None = None, velocity_cap: float | None = None
    ) -> Tensor:
        """w_t, `(B,)` float32 on the CPU, of the squared error of the prediction; 1 by default.

        Args:
            timesteps: `(B,)`.
            min_snr_gamma: γ of min-SNR weighting, min(SNR, γ) on errors of z_0 (arXiv:2303.09556).
            velocity_cap: weight errors of ε as errors of v, (SNR + 1) / SNR, up to this value; takes precedence over
                `min_snr_gamma`. Processes that do not predict ε ignore it.
        """
        if min_snr_gamma is None:
            return torch.ones(timesteps.shape)
        return self._min_snr(timesteps, min_snr_gamma).float()

    @abstractmethod
    def _min_snr(self, timesteps: Tensor, gamma: float) -> Tensor:
        """min(SNR, γ) |∂z_0 / ∂prediction|², `(B,)` float64 on the CPU."""

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The forward process: z_t, `(B, C, h, w)`, from z_0 and ε of this shape."""
        a, s = self._broadcast(timesteps, clean)
        return a * clean + s * noise

    def _broadcast(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """a_t and s_t as `(B, 1, 1, 1)`, on the device and in the dtype of `like`."""
        shape = (-1, *[1] * (like.ndim - 1))
        a, s = self.scales(timesteps)
        return a.to(like.device, like.dtype).reshape(shape), s.to(like.device, like.dtype).reshape(shape)


class Diffusion(NoiseProcess):
    """Variance-preserving diffusion: a_t = sqrt(ā_t), s_t = sqrt(1 - ā_t), with ā_t from the schedule's betas."""

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """ā_t, `(T,)` float32 on the CPU, as diffusers' DDIM scheduler computes it."""
        from diffusers import DDIMScheduler

        scheduler: Any = DDIMScheduler.from_config(self.schedule)
        return scheduler.alphas_cumprod

    def scales(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        alphas = self._alphas(timesteps)
        return alphas**0.5, (1 - alphas) ** 0.5

    def snr(self, timesteps: Tensor) -> Tensor:
        alphas = self._alphas(timesteps.cpu()).double()
        return alphas / (1 - alphas)

    def _alphas(self, timesteps: Tensor) -> Tensor:
        """ā_t, `(B,)` float32, on the device of the timesteps."""
        alphas = self.alphas_cumprod.to(timesteps.device)
        if not timesteps.is_floating_point():
            return alphas[timesteps]
        below = timesteps.long().clamp(max=len(alphas) - 2)
        return torch.lerp(alphas[below], alphas[below + 1], (timesteps - below).to(alphas.dtype))


class EpsilonDiffusion(Diffusion):
    """The denoiser predicts the noise ε (arXiv:2006.11239)."""

    prediction_type = "epsilon"

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise

    def clean_estimate(self, noisy: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        a, s = self._broadcast(timesteps, noisy)
        return (noisy - s * prediction) / a

    def loss_weights(
        self, timesteps: Tensor, min_snr_gamma: float | None = None, velocity_cap: float | None = None
    ) -> Tensor:
        if velocity_cap is None:
            return super().loss_weights(timesteps, min_snr_gamma)
        snr = self.snr(timesteps)
        return ((snr + 1) / snr).clamp(max=velocity_cap).float()

    def _min_snr(self, timesteps: Tensor, gamma: float) -> Tensor:
        return (gamma / self.snr(timesteps)).clamp(max=1)  # |∂z_0 / ∂ε|² = 1 / SNR


class VelocityDiffusion(Diffusion):
    """The denoiser predicts the velocity v = a_t ε - s_t z_0 (arXiv:2202.00512)."""

    prediction_type = "v_prediction"

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        a, s = self._broadcast(timesteps, clean)
        return a * noise - s * clean

    def clean_estimate(self, noisy: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        a, s = self._broadcast(timesteps, noisy)
        return a * noisy - s * prediction

    def _min_snr(self, timesteps: Tensor, gamma: float) -> Tensor:
        snr = self.snr(timesteps)
        return snr.clamp(max=gamma) / (snr + 1)  # |∂z_0 / ∂v|² = s_t² = 1 / (SNR + 1)


class FlowMatching(NoiseProcess):
    """Rectified flow (arXiv:2210.02747, 2403.03206): z_t = (1 - σ_t) z_0 + σ_t ε; the denoiser predicts u = ε - z_0.

    A timestep is t = σ_t T, which is what diffusers' flow-matching schedulers pass to the denoiser.
    """

    prediction_type = "flow_prediction"
    first = 1  # at 0 there is no noise to predict

    def scales(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        sigmas = timesteps.float() / self.steps
        return 1 - sigmas, sigmas

    def snr(self, timesteps: Tensor) -> Tensor:
        sigmas = self._sigmas(timesteps)
        return ((1 - sigmas) / sigmas).square()

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise - clean

    def clean_estimate(self, noisy: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        return noisy - self._broadcast(timesteps, noisy)[1] * prediction

    def _min_snr(self, timesteps: Tensor, gamma: float) -> Tensor:
        sigmas = self._sigmas(timesteps)  # |∂z_0 / ∂u|² = σ_t², and SNR σ_t² = (1 - σ_t)²
        return torch.minimum((1 - sigmas).square(), gamma * sigmas.square())

    def _sigmas(self, timesteps: Tensor) -> Tensor:
        return timesteps.cpu().double() / self.steps


PREDICTION_TYPES: Mapping[str, type[NoiseProcess]] = {
    process.prediction_type: process for process in (EpsilonDiffusion, VelocityDiffusion, FlowMatching)
}
"""The noise processes by diffusers' name of what the denoiser predicts."""


def noise_process(schedule: Mapping[str, Any]) -> NoiseProcess:
    """The noise process of a scheduler configuration.

    Args:
        schedule: a diffusers scheduler's configuration. Without `prediction_type` it is "flow_prediction" for the
            flow-matching schedulers, and "epsilon" for all others.

    Raises:
        TetherError: if the prediction type or the scheduler is not supported.
    """
    scheduler = str(schedule.get("_class_name"))
    if scheduler.startswith("EDM"):  # they scale what the denoiser is given and predicts, which no process here does
        raise TetherError(
            f"{scheduler} is not supported: it is EDM's noise schedule (Playground 2.5, CosXL); use another base"
        )
    usual = "flow_prediction" if scheduler.startswith("FlowMatch") else "epsilon"
    name = schedule.get("prediction_type", usual)
    if name not in PREDICTION_TYPES:
        known = ", ".join(PREDICTION_TYPES)
        raise TetherError(f"{name!r} is not a supported prediction type: expected one of {known}")
    return PREDICTION_TYPES[name](schedule)
