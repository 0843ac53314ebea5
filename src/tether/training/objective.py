"""The objective: Stable Diffusion's loss, with the condition added where there is one (section 3.4).

    L = E[ w(t) || target - ε_θ(z_t, t, c_t, c_f) ||² ],   z_t = sqrt(ā_t) z_0 + sqrt(1 - ā_t) ε

The target is ε for epsilon prediction and sqrt(ā_t) ε - sqrt(1 - ā_t) z_0 for v-prediction. The weight w(t) is 1, or
min-SNR's: min(SNR, γ)/SNR for ε and min(SNR, γ)/(SNR + 1) for v, with SNR = ā_t/(1 - ā_t) (Hang et al. 2023).

`diffusion_loss` is that for any denoiser; `ControlObjective` is it for a control on a locked base, and knows what of
the two is trained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from tether.base import Base
from tether.control import Conditioning, ControlNet
from tether.training.locked import locked_convolutions, uncopied_weights

__all__ = [
    "DECODER_PARTS",
    "ControlObjective",
    "diffusion_loss",
    "drop_text_states",
    "fingerprint",
    "loss_weights",
]

DECODER_PARTS = ("up_blocks", "conv_norm_out", "conv_out")
"""The modules of a UNet that come after its middle: what `unlock_decoder` trains."""


def loss_weights(
    alphas_cumprod: Tensor,
    timesteps: Tensor,
    prediction_type: str,
    gamma: float | None,
    velocity_cap: float | None = None,
) -> Tensor:
    """w(t) for timesteps `(B,)`: ones without a gamma, min-SNR's weights with one; `velocity_cap` of `diffusion_loss`.

    Raises:
        ValueError: where the prediction type is neither "epsilon" nor "v_prediction".
    """
    if prediction_type not in ("epsilon", "v_prediction"):
        raise ValueError(f"prediction_type must be epsilon or v_prediction, not {prediction_type!r}")
    alphas = alphas_cumprod[timesteps.cpu()].double()
    snr = alphas / (1 - alphas)
    if velocity_cap is not None and prediction_type == "epsilon":
        return ((snr + 1) / snr).clamp(max=velocity_cap).float()
    if gamma is None:
        return torch.ones(timesteps.shape)
    clipped = snr.clamp(max=gamma)
    return (clipped / snr if prediction_type == "epsilon" else clipped / (snr + 1)).float()


def diffusion_loss(
    predict: Callable[[Tensor, Tensor], Tensor],
    latents: Tensor,
    schedule: Any,
    *,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    min_snr_gamma: float | None = None,
    velocity_cap: float | None = None,
    noise_offset: float = 0.0,
    stratified: bool = False,
    shift: float = 1.0,
    per_sample: bool = False,
) -> Tensor:
    """The loss of a batch of clean latents at random timesteps.

    Args:
        predict: the denoiser, `(noisy latents (B, 4, h, w), timesteps (B,)) -> (B, 4, h, w)`.
        latents: clean latents `(B, 4, h, w)`, scaled.
        schedule: a diffusers scheduler with `alphas_cumprod`, `add_noise` and `config.prediction_type`.
        generator: source of the noise and the timesteps, which are drawn on its device; or one a sample, which makes a
            sample's loss independent of the batch that it comes in. None draws on the CPU.
        min_snr_gamma: γ of min-SNR weighting (5 in the paper); None weighs every timestep alike.
        velocity_cap: weigh errors of ε as v-prediction would, (SNR + 1)/SNR (Salimans & Ho 2022), up to this value.
            Plain errors of ε are small where the noise is strong, which is where a picture's colours and layout are
            decided: a small model then hardly learns them from the words.
        noise_offset: deviation of one more noise value a channel that is the same over the whole picture.
        stratified: spread a batch's timesteps evenly over the schedule, T ((u + i / B) mod 1) with one uniform u, in
            random order: the gradient is less noisy (Kingma et al. 2021, appendix I.1). Each alone is still uniform.
        shift: draw timesteps where the noise is stronger, t/T = s u / (1 + (s - 1) u) for u uniform in [0, 1) (Esser et
            al. 2024, equation 23); 1 leaves them uniform. Half of them lie above s / (s + 1).
        per_sample: return one loss a sample, `(B,)`, in place of their mean.

    Returns:
        A scalar, or `(B,)`; float32.
    """
    device = latents.device
    if generator is None or isinstance(generator, torch.Generator):
        noise, timesteps = _draw(latents.shape, schedule, noise_offset, generator)
        if stratified:
            timesteps = _spread(timesteps, len(schedule.alphas_cumprod), generator)
    else:
        one = latents[:1].shape
        drawn = [_draw(one, schedule, noise_offset, each) for each in generator]
        noise, timesteps = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    if shift != 1.0:
        count = len(schedule.alphas_cumprod)
        uniform = timesteps.double() / count
        timesteps = (count * shift * uniform / (1 + (shift - 1) * uniform)).long().clamp(max=count - 1)
    # Channels last where the latents are, so that no convolution has to turn them around.
    noise, timesteps = torch.empty_like(latents, dtype=torch.float32).copy_(noise), timesteps.to(device)
    noisy = schedule.add_noise(latents.float(), noise, timesteps)
    prediction_type = schedule.config.prediction_type
    weights = loss_weights(schedule.alphas_cumprod, timesteps, prediction_type, min_snr_gamma, velocity_cap)
    weights = weights.to(device)
    target = noise if prediction_type == "epsilon" else schedule.get_velocity(latents.float(), noise, timesteps)
    error = (predict(noisy.to(latents.dtype), timesteps).float() - target).square().mean(dim=(1, 2, 3))
    losses = weights * error
    return losses if per_sample else losses.mean()


def _draw(
    shape: torch.Size, schedule: Any, noise_offset: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Noise of a shape `(B, C, h, w)` and timesteps `(B,)`."""
    device = "cpu" if generator is None else generator.device
    noise = torch.randn(shape, generator=generator, device=device)
    if noise_offset:
        noise = noise + noise_offset * torch.randn(*shape[:2], 1, 1, generator=generator, device=device)
    return noise, torch.randint(len(schedule.alphas_cumprod), shape[:1], generator=generator, device=device)


def _spread(timesteps: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Evenly spaced timesteps `(B,)` in [0, count), among them the first of `timesteps`, in random order.

    In order, samples of one kind that stand side by side in a batch would get timesteps side by side.
    """
    places = torch.randperm(len(timesteps), generator=generator, device=timesteps.device)
    return (timesteps[0] + places * count // len(timesteps)) % count


def drop_text_states(
    text_states: Tensor, empty_states: Tensor, share: float, generators: Sequence[torch.Generator]
) -> Tensor:
    """Replaces each prompt by the empty one with probability `share` (0.5 in the paper, section 3.4).

    Args:
        text_states: `(B, T, D)`, or pooled ones `(B, P)`.
        empty_states: those of the empty prompt, of the same shape or with a batch of one.
        share: probability of each sample's prompt to be replaced.
        generators: one a sample.
    """
    kept = torch.stack([torch.rand((), generator=generator) >= share for generator in generators])
    kept = kept.to(text_states.device).reshape(-1, *[1] * (text_states.ndim - 1))
    return torch.where(kept, text_states, empty_states)


def fingerprint(modules: Mapping[str, nn.Module]) -> str:
    """SHA-256 over names, types, shapes and bytes of every parameter and buffer, whatever their memory layout."""
    digest = hashlib.sha256()
    for prefix, module in modules.items():
        for name, tensor in module.state_dict(keep_vars=False).items():
            if tensor.is_meta:  # it was let go: nothing can change it
                continue
            digest.update(f"{prefix}.{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()


class ControlObjective(nn.Module):
    """The loss of a control on a locked base; its parameters are what is trained, and nothing else is.

    Args:
        base: the base. Its denoiser stays out of this module's parameters, unless its decoder is unlocked.
        control: the control, trained whole but for the zero convolutions that `only_middle` leaves out.
        min_snr_gamma, noise_offset: as for `diffusion_loss`.
        only_middle: the skip connections get nothing: their zero convolutions are set back to zero and locked, so
            that the trained control needs no setting to be used.
        unlock_decoder: the UNet's `DECODER_PARTS` are trained too, in float32.
    """

    def __init__(
        self,
        base: Base,
        control: ControlNet,
        *,
        min_snr_gamma: float | None = None,
        noise_offset: float = 0.0,
        only_middle: bool = False,
        unlock_decoder: bool = False,
    ) -> None:
        super().__init__()
        self.control = control
        self.min_snr_gamma, self.noise_offset = min_snr_gamma, noise_offset
        self.schedule = DDIMScheduler.from_config(base.noise_schedule)
        control.requires_grad_(True).train()
        if only_middle:
            control.controlnet_down_blocks.requires_grad_(False)
            with torch.no_grad():
                for parameter in control.controlnet_down_blocks.parameters():
                    parameter.zero_()
        self.denoiser = base.denoiser
        self.base = base  # no nn.Module, so its networks are neither trained, nor saved, nor sent around
        self.decoder: nn.ModuleDict | None = None
        if unlock_decoder:
            self.decoder = nn.ModuleDict({part: getattr(base.unet, part) for part in DECODER_PARTS})
            self.decoder.float().requires_grad_(True)

    def forward(
        self,
        latents: Tensor,
        conditions: Tensor,
        text_states: Tensor,
        generators: Sequence[torch.Generator],
        added: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """The loss of each sample, `(B,)` float32.

        Args:
            latents: clean, `(B, 4, h, w)`.
            conditions: `(B, C, H, W)` in [0, 1].
            text_states: `(B, T, D)`.
            generators: one a sample: of its noise and timestep.
            added: SDXL's added conditions.
        """
        # Recomputed activations are not kept either way, and must be computed as they were the first time.
        recomputed = self.base.unet.is_gradient_checkpointing or self.control.is_gradient_checkpointing
        with nullcontext() if recomputed else uncopied_weights():
            hint = self.control.encode(conditions)

        extras = dict(added or {})
        conditioning = Conditioning(text_states, extras.pop("text_embeds", None), extras)

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            with nullcontext() if recomputed else uncopied_weights():
                signal = self.control(noisy, timesteps, conditioning, hint)
                with nullcontext() if recomputed else locked_convolutions():
                    return self.denoiser.predict(noisy, timesteps, conditioning, signal)

        return diffusion_loss(
            predict,
            latents,
            self.schedule,
            generator=generators,
            min_snr_gamma=self.min_snr_gamma,
            noise_offset=self.noise_offset,
            per_sample=True,
        )

    def locked_fingerprint(self) -> str:
        """SHA-256 of everything of the base that training must not change."""
        parts = dict(self.base.unet.named_children())
        if self.decoder is not None:
            parts = {name: part for name, part in parts.items() if name not in DECODER_PARTS}
        others = {name: getattr(self.base, name) for name in ("vae", "text_encoder", "text_encoder_2")}
        return fingerprint(parts | {name: module for name, module in others.items() if module is not None})
