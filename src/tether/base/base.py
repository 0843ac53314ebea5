"""A locked latent diffusion model (arXiv:2112.10752) as one typed object.

An image x in [-1, 1] is encoded to latents z = s (E(x) - b) with the autoencoder's scale s and shift b, and a prompt to
text states c. From noised latents z_t and c the denoiser predicts what its noise process defines. `Base` has the parts
under the names that diffusers and transformers give them, and the operations that everything else needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn

from tether.base.denoiser import Denoiser, UNetDenoiser
from tether.base.noise import NoiseProcess, noise_process
from tether.base.prompt_syntax import PromptSyntax
from tether.base.text import TextEncoders
from tether.control.conditioning import Conditioning

__all__ = ["Base", "cast_quietly"]


def cast_quietly(module: nn.Module, dtype: torch.dtype) -> None:
    """Casts a network in place, without the warning that diffusers' own `to` logs."""
    nn.Module.to(module, dtype=dtype)


def _dtype_of(network: nn.Module) -> torch.dtype:
    """What a network computes in. The property that diffusers has for it goes through all modules, 9 ms for the shipped
    denoiser, many times a picture; of weights of 8 bits that alone knows."""
    first = next(network.parameters()).dtype
    return first if first.is_floating_point and first.itemsize > 1 else network.dtype  # type: ignore[return-value]


def _text_part(index: int, attribute: str) -> Any:
    """A property for the tokenizer or the encoder of one of a base's text encoders."""

    def get(base: Base) -> Any:
        return getattr(base.text.parts[index], attribute) if index < len(base.text.parts) else None

    def put(base: Base, value: Any) -> None:
        setattr(base.text.parts[index], attribute, value)

    return property(get, put)


@dataclass
class Base:
    """The parts of a latent diffusion model, all of them locked (no parameter requires a gradient).

    Attributes:
        unet: the denoiser's network; see `denoiser` for its interface.
        vae: the autoencoder.
        text: its text encoders, each with its tokenizer. `text_encoder`, `tokenizer`, `text_encoder_2` and
            `tokenizer_2` read and replace those of the first and the second one (None if there is no second).
        noise_schedule: the config of a diffusers scheduler: `beta_start`, `beta_end`, `beta_schedule`,
            `num_train_timesteps`, `prediction_type`, ...
        name: its name in messages.
        words: what it is, and how that was decided, for messages.
        family: "bundled", "sd1", "sd2", "sdxl", or "custom".
        zero_empty_negative: without a negative prompt, guide away from zeros instead of the states of "", as SDXL was
            trained (`force_zeros_for_empty_prompt` in its `model_index.json`).
        source: the path it was read from.
        engine: what a pipeline computes it with unless told otherwise, a name of `tether.sampling.engines`.
        execution_device: where it computes, if its parts are elsewhere until they are needed
            (`tether.base.memory.reduce_memory`).
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text: TextEncoders
    noise_schedule: dict[str, Any]
    name: str = "base"
    words: str = ""
    family: str = "custom"
    zero_empty_negative: bool = False
    source: Path | None = field(default=None, repr=False)
    engine: str = "eager"
    execution_device: torch.device | None = field(default=None, repr=False)
    _noise: NoiseProcess | None = field(default=None, init=False, repr=False, compare=False)
    _denoiser: Denoiser | None = field(default=None, init=False, repr=False, compare=False)

    text_encoder = _text_part(0, "encoder")
    tokenizer = _text_part(0, "tokenizer")
    text_encoder_2 = _text_part(1, "encoder")
    tokenizer_2 = _text_part(1, "tokenizer")

    def __post_init__(self) -> None:
        for module in self.modules():
            module.requires_grad_(False).eval()

    def modules(self) -> list[nn.Module]:
        """The networks, in a fixed order."""
        return [self.unet, self.vae, *self.text.networks]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Moves or casts every network in place, and returns the base. A network on "meta" stays there."""
        for module in self.modules():
            if dtype is not None:
                cast_quietly(module, dtype)
            if device is not None and next(module.parameters()).device.type != "meta":
                module.to(device)
        return self

    @property
    def noise(self) -> NoiseProcess:
        """The noise process of `noise_schedule`; made once, and again if the schedule changes."""
        if self._noise is None or self._noise.schedule != self.noise_schedule:
            self._noise = noise_process(self.noise_schedule)
        return self._noise

    @property
    def denoiser(self) -> Denoiser:
        """The denoiser around `unet`; made once, and again if `unet` or the noise schedule is replaced."""
        if (
            self._denoiser is None
            or self._denoiser.network is not self.unet
            or self._denoiser.spec.noise is not self.noise
        ):
            self._denoiser = UNetDenoiser(self.unet, self.noise, self.latent_factor)
        return self._denoiser

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.execution_device or next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the denoiser computes in."""
        return _dtype_of(self.unet)

    @property
    def latent_factor(self) -> int:
        """Image pixels per latent pixel along one side: 8 for Stable Diffusion."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    @property
    def sample_size(self) -> int:
        """The side of the images that the denoiser was trained on, in pixels."""
        size = self.unet.config["sample_size"]
        side = size if isinstance(size, int) else max(size)
        return side * self.latent_factor

    @property
    def prediction_type(self) -> str:
        """What the denoiser predicts: a key of `tether.base.noise.PREDICTION_TYPES`."""
        return self.noise.prediction_type

    def encode_prompts(
        self, prompts: list[str], clip_skip: int = 0, *, syntax: PromptSyntax = "nested"
    ) -> Conditioning:
        """B prompts -> tokens `(B, T, D)` in the base's dtype, on its device; see `TextEncoders.encode`."""
        encoded = self.text.encode(prompts, clip_skip, device=self.device, syntax=syntax)
        return replace(encoded, tokens=encoded.tokens.to(self.dtype))

    @torch.no_grad()
    def encode_images(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Pixels `(B, 3, H, W)` in [-1, 1] -> latents `(B, C, H/8, W/8)`, scaled for the denoiser.

        They are the means of the autoencoder's posterior; with a generator, a sample of it.
        """
        posterior = self._posterior(pixels)
        return self._scaled(posterior.mode() if generator is None else posterior.sample(generator))

    @torch.no_grad()
    def encode_moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels as for `encode_images` -> mean and log-variance of the posterior of the scaled latents.

        A sample of it is mean + exp(log-variance / 2) ε for ε of the standard normal distribution.
        """
        posterior = self._posterior(pixels)
        log_variance = posterior.logvar + 2 * math.log(self.vae.config["scaling_factor"])
        return self._scaled(posterior.mode()), log_variance.to(self.dtype)

    def _posterior(self, pixels: Tensor) -> DiagonalGaussianDistribution:
        moments = self._autoencoder(lambda vae, x: vae.encode(x).latent_dist.parameters, pixels)
        return DiagonalGaussianDistribution(moments)

    def _scaled(self, latents: Tensor) -> Tensor:
        shift = self.vae.config.get("shift_factor") or 0.0
        return ((latents - shift) * self.vae.config["scaling_factor"]).to(self.dtype)

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Latents `(B, C, h, w)` -> pixels `(B, 3, 8h, 8w)` in [-1, 1], float32."""
        shift = self.vae.config.get("shift_factor") or 0.0
        latents = latents.to(self.device, _dtype_of(self.vae)) / self.vae.config["scaling_factor"] + shift
        return self._autoencoder(lambda vae, z: vae.decode(z).sample, latents).float().clamp(-1, 1)

    def _autoencoder(self, call: Callable[[Any, Tensor], Tensor], inputs: Tensor) -> Tensor:
        """What a call of the autoencoder gives; in float32, if float16 overflows in it.

        The autoencoders of many fine-tunes of SD 1.x leave float16's range. The weights are cast back afterwards, which
        loses nothing, so that no image depends on the ones before it.
        """
        hook = getattr(self.vae, "_hf_hook", None)
        if hook is not None:  # of `reduce_memory`; diffusers calls it too, unless it was imported without accelerate
            hook.pre_forward(self.vae)
        with torch.autocast(self.device.type, enabled=False):  # training's would compute in float16 here too
            found = call(self.vae, inputs.to(self.device, _dtype_of(self.vae)))
            if _dtype_of(self.vae) != torch.float16 or found.isfinite().all() or not inputs.isfinite().all():
                return found
            cast_quietly(self.vae, torch.float32)
            try:
                return call(self.vae, inputs.to(self.device, torch.float32))
            finally:
                cast_quietly(self.vae, torch.float16)
