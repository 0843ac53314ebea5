"""The objective: the base's diffusion loss, with the condition added (section 3.4 of arXiv:2302.05543).

    L = E[ w(t) || target - F(z_t, t, c_t, c_f) ||² ],   z_t = a_t z_0 + s_t ε

a_t, s_t, the target and w(t) are those of the base's noise process (`tether.base.noise`). `diffusion_loss` is this loss
for any denoiser; `ControlObjective` is it for a control on a locked base, and knows which parameters are trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from tether.base import Base
from tether.base.noise import NoiseProcess
from tether.control.conditioning import Conditioning
from tether.control.control import Control
from tether.errors import TetherError
from tether.files.hashing import hash_modules
from tether.training.auxiliary import AuxiliaryLoss, Watching
from tether.training.batch import Batch, Randomness
from tether.training.performance.locked import locked_convolutions, uncopied_weights

__all__ = [
    "DECODER_PARTS",
    "ControlObjective",
    "check_skips_are_silent",
    "diffusion_loss",
    "drop_prompts",
    "silence_skips",
]

DECODER_PARTS = ("up_blocks", "conv_norm_out", "conv_out")
"""The modules of a U-Net that come after its middle: what `unlock_decoder` trains."""

_SKIP_ZEROS = "controlnet_down_blocks"


def diffusion_loss(
    predict: Callable[[Tensor, Tensor], Tensor],
    latents: Tensor,
    process: NoiseProcess,
    *,
    randomness: Randomness | None = None,
    min_snr_gamma: float | None = None,
    velocity_cap: float | None = None,
    noise_offset: float = 0.0,
    stratified: bool = False,
    shift: float = 1.0,
    per_sample: bool = False,
) -> Tensor:
    """The loss of a batch of clean latents at random timesteps.

    Args:
        predict: the denoiser, `(z_t (B, C, h, w), timesteps (B,)) -> (B, C, h, w)`.
        latents: z_0, `(B, C, h, w)`, scaled.
        process: the noise process.
        randomness: generator of noise and timesteps, which are drawn on its device; or one per sample, which makes a
            sample's loss independent of its batch. None draws on the CPU from the global generator.
        min_snr_gamma: γ of min-SNR weighting (arXiv:2303.09556; 5 there); None weighs all timesteps alike.
        velocity_cap: weigh errors of ε as errors of velocity, (SNR + 1)/SNR (arXiv:2202.00512), up to this weight.
            Plain errors of ε are small at strong noise, where an image's colors and layout are decided: a small model
            then hardly learns them from the prompt.
        noise_offset: standard deviation of additional noise that is constant over each channel.
        stratified: spread a batch's timesteps evenly over the schedule, T ((u + i / B) mod 1) with one uniform u, in
            random order: the gradient is less noisy (arXiv:2107.00630, appendix I.1). Each one alone is still
            uniform. Needs one generator for the batch.
        shift: draw timesteps from noisier steps, t/T = s u / (1 + (s - 1) u) for u uniform in [0, 1)
            (arXiv:2403.03206, equation 23), rounded down; 1 leaves them uniform. Half of them are above s / (s + 1).
        per_sample: return one loss per sample, `(B,)`, instead of their mean.

    Returns:
        A scalar, or `(B,)`; float32.
    """
    if randomness is None or isinstance(randomness, torch.Generator):
        noise, timesteps = _draw(latents.shape, process.steps, noise_offset, randomness)
        if stratified:
            timesteps = _spread(timesteps, process.steps, randomness)
    else:
        one = latents[:1].shape
        drawn = [_draw(one, process.steps, noise_offset, each) for each in randomness]
        noise, timesteps = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    if shift != 1.0:
        uniform = timesteps.double() / process.steps
        timesteps = process.steps * shift * uniform / (1 + (shift - 1) * uniform)
        timesteps = timesteps.long().clamp(max=process.steps - 1)
    timesteps = timesteps + process.first
    weights = process.loss_weights(timesteps, min_snr_gamma, velocity_cap).to(latents.device)
    # Channels last if the latents are, so that no convolution has to convert them.
    noise, timesteps = torch.empty_like(latents, dtype=torch.float32).copy_(noise), timesteps.to(latents.device)
    noisy = process.add_noise(latents.float(), noise, timesteps)
    target = process.target(latents.float(), noise, timesteps)
    error = (predict(noisy.to(latents.dtype), timesteps).float() - target).square().mean(dim=(1, 2, 3))
    losses = weights * error
    return losses if per_sample else losses.mean()


def _draw(
    shape: torch.Size, steps: int, noise_offset: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Noise of a shape `(B, C, h, w)` and timesteps `(B,)`."""
    device = "cpu" if generator is None else generator.device
    noise = torch.randn(shape, generator=generator, device=device)
    if noise_offset:
        noise = noise + noise_offset * torch.randn(*shape[:2], 1, 1, generator=generator, device=device)
    return noise, torch.randint(steps, shape[:1], generator=generator, device=device)


def _spread(timesteps: Tensor, steps: int, generator: torch.Generator | None) -> Tensor:
    """Evenly spaced timesteps `(B,)` in [0, steps), among them the first of `timesteps`, in random order.

    In order, neighboring samples of a batch, which may be of one kind, would get neighboring timesteps.
    """
    places = torch.randperm(len(timesteps), generator=generator, device=timesteps.device)
    return (timesteps[0] + places * steps // len(timesteps)) % steps


def drop_prompts(states: Tensor, empty: Tensor, share: float, generators: Sequence[torch.Generator]) -> Tensor:
    """Replaces each prompt by the empty one with probability `share` (0.5 in section 3.4 of arXiv:2302.05543).

    Args:
        states: text states `(B, T, D)`, or pooled states `(B, P)`.
        empty: those of the empty prompt, of the same shape or with a batch of one.
        share: probability for each sample.
        generators: one per sample.
    """
    kept = torch.stack([torch.rand((), generator=generator) >= share for generator in generators])
    kept = kept.to(states.device).reshape(-1, *[1] * (states.ndim - 1))
    return torch.where(kept, states, empty)


class ControlObjective(nn.Module):
    """The losses of a control on a locked base; its parameters are exactly what is trained.

    Args:
        base: the base. Its denoiser is not among this module's parameters, except an unlocked decoder.
        control: the control, of any family.
        auxiliary: further losses, by name.
        min_snr_gamma, velocity_cap, noise_offset, stratified, shift: as for `diffusion_loss`.
        only_middle: skip connections get no signal, and their zero convolutions stay as they are (`only_mid_control`).
        unlock_decoder: the U-Net's `DECODER_PARTS` are trained too, in float32.

    Raises:
        TetherError: when the control's family or the base has no such part.
    """

    def __init__(
        self,
        base: Base,
        control: Control,
        auxiliary: Mapping[str, AuxiliaryLoss] | None = None,
        *,
        min_snr_gamma: float | None = None,
        velocity_cap: float | None = None,
        noise_offset: float = 0.0,
        stratified: bool = False,
        shift: float = 1.0,
        only_middle: bool = False,
        unlock_decoder: bool = False,
    ) -> None:
        super().__init__()
        self.control = control
        self.auxiliary = dict(auxiliary or {})
        self.min_snr_gamma, self.velocity_cap, self.noise_offset = min_snr_gamma, velocity_cap, noise_offset
        self.stratified, self.shift = stratified, shift
        self.process = base.noise
        control.requires_grad_(True).train()
        if only_middle:
            silence_skips(control)
        self.denoiser = control.wrap(base.denoiser)
        self.base = base  # not an nn.Module, so its networks are neither trained, nor saved, nor synchronized
        self.decoder: nn.ModuleDict | None = None
        if unlock_decoder:
            self.decoder = nn.ModuleDict({part: getattr(base.unet, part) for part in DECODER_PARTS})
            self.decoder.float().requires_grad_(True)

    def forward(self, batch: Batch, randomness: Randomness) -> tuple[Tensor, dict[str, Tensor]]:
        """The diffusion loss of each sample, `(B,)` float32, and each auxiliary loss of the batch, a scalar.

        Args:
            batch: on the device.
            randomness: of noise and timesteps.
        """
        control = self.control.choose(batch.kinds) if batch.kinds else self.control
        with self._memory_saving(uncopied_weights), _unchecked_values(self.control):
            hint = control.encode(batch.conditions)

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            prediction = self._predict(control, noisy, timesteps, batch.conditioning, hint)
            for loss in self.auxiliary.values():
                if isinstance(loss, Watching):
                    loss.watch(noisy, timesteps, prediction)
            return prediction

        losses = diffusion_loss(
            predict,
            batch.latents,
            self.process,
            randomness=randomness,
            min_snr_gamma=self.min_snr_gamma,
            velocity_cap=self.velocity_cap,
            noise_offset=self.noise_offset,
            stratified=self.stratified,
            shift=self.shift,
            per_sample=True,
        )
        with torch.autocast(batch.latents.device.type, enabled=False):
            return losses, {name: loss(batch) for name, loss in self.auxiliary.items()}

    def _predict(
        self, control: Control, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning, hint: Tensor
    ) -> Tensor:
        """F(z_t, t, c_t, c_f): the base's prediction with the control's signal."""
        with self._memory_saving(uncopied_weights):
            signal = control(noisy, timesteps, conditioning, hint)
            with self._memory_saving(locked_convolutions):
                return self.denoiser.predict(noisy, timesteps, conditioning, signal)

    def _memory_saving(self, mode: Callable[[], AbstractContextManager[object]]) -> AbstractContextManager[object]:
        """The mode, unless activations are recomputed: then they are not kept anyway, and must be computed alike."""
        recomputed = self.base.unet.is_gradient_checkpointing or self.control.is_gradient_checkpointing
        return nullcontext() if recomputed else mode()

    def locked_fingerprint(self) -> str:
        """SHA-256 of everything of the base that training must not change."""
        parts = dict(self.base.unet.named_children())
        if self.decoder is not None:
            parts = {name: part for name, part in parts.items() if name not in DECODER_PARTS}
        texts = {f"text_encoder_{k}": network for k, network in enumerate(self.base.text.networks, 1)}
        texts = {name.removesuffix("_1"): network for name, network in texts.items()}
        return hash_modules(parts | {"vae": self.base.vae} | texts)


@contextmanager
def _unchecked_values(control: Control) -> Iterator[None]:
    """Inside, hint encoders do not look at a condition's values, which waits for the device; `Batch.to` has checked."""
    encoders: list[Any] = [module for module in control.modules() if hasattr(module, "check_values")]
    for encoder in encoders:
        encoder.check_values = False
    try:
        yield
    finally:
        for encoder in encoders:
            encoder.check_values = True


def silence_skips(control: Control) -> None:
    """Makes a control give no signal to the skip connections, and locks their zero convolutions as they are.

    Raises:
        TetherError: when it is not a ControlNet.
    """
    zeros = getattr(control, _SKIP_ZEROS, None)
    if zeros is None:
        raise TetherError(f"only_middle is for a ControlNet; {control.family or 'this control'} has no skips")
    zeros.requires_grad_(False)
    for zero in zeros:
        zero.register_forward_hook(_silent)


def check_skips_are_silent(control: Control) -> None:
    """Checks that a control gives skip connections no signal by its weights, so that it is saved as it was trained.

    Raises:
        TetherError: when it does: it has learned with them.
    """
    zeros = getattr(control, _SKIP_ZEROS, None)
    if zeros is not None and any(bool(tensor.any()) for tensor in zeros.parameters()):
        raise TetherError(
            "only_middle trains without the skip connections, but the control that training starts from controls them: "
            "leave only_middle out, or start from a control that was trained with it"
        )


def _silent(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    """A forward hook: nothing, whatever the module computes."""
    return torch.zeros_like(output)
