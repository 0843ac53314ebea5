"""Controls that act inside of the denoiser, not at its injection points alone.

    signal = {"hint": hint}          what `Injection` weights, masks and shares between the CFG branches
    predict(z_t, t, c_t; signal)     the network with hooks of the control, which use the hint

The hooks are there during a prediction and gone after it, so the locked network stays as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tether.base.denoiser import Denoiser, UNetDenoiser
from tether.control.conditioning import Conditioning
from tether.control.control import Control
from tether.control.hint import HintEncoder
from tether.control.signal import Signal

__all__ = ["HINT", "InsideControl", "InsideDenoiser", "Situation", "first_channels"]

HINT = "hint"
"""The name of the hint in a signal."""


class Situation:
    """What hooks know of a prediction.

    Attributes:
        latents: z_t, `(B, C, h, w)`.
        timesteps: t, a number, a scalar tensor or `(B,)`.
        hint: `(B, C', h, w)`, with its strength in it; None where the control does not act.
    """

    def __init__(self, latents: Tensor, timesteps: int | float | Tensor, hint: Tensor | None) -> None:
        self.latents, self.timesteps, self.hint = latents, timesteps, hint


class InsideControl(Control):
    """Base class: a hint encoder whose last convolution is zero, and hooks.

    Args:
        channels: of the hint, those of the denoiser's first convolution.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hint = HintEncoder(3, channels)

    def encode(self, condition: Tensor) -> Tensor:
        """Condition `(B, 3, H, W)` in [0, 1] -> hint `(B, channels, H/8, W/8)`, zero before training."""
        return self.hint(condition)

    def signal(
        self, latents: Tensor, timestep: int | float | Tensor, conditioning: Conditioning, hint: Tensor
    ) -> Signal:
        return Signal({HINT: hint.expand(len(latents), -1, -1, -1)})

    def wrap(self, denoiser: Denoiser) -> Denoiser:
        return InsideDenoiser(denoiser, self)

    def network(self, locked: Any) -> Any:
        """The network that predicts; the locked one by default."""
        return locked

    def hook(self, network: Any, now: Situation) -> Sequence[RemovableHandle]:
        """Registers what the control does in the network during one prediction; by default the hint is added to the
        output of the first convolution, W z_t + W' f = [W W'] [z_t; f]: as if its features f stood beside z_t."""
        if now.hint is None:
            return []
        hint = now.hint
        return [network.conv_in.register_forward_hook(lambda module, inputs, output: output + hint.to(output.dtype))]


class InsideDenoiser(UNetDenoiser):
    """A denoiser under an `InsideControl`.

    Args:
        denoiser: around the locked network.
        control: the control.
    """

    def __init__(self, denoiser: Denoiser, control: InsideControl) -> None:
        super().__init__(control.network(denoiser.network), denoiser.spec.noise, denoiser.spec.latent_factor)
        self.control = control

    def predict(
        self,
        latents: Tensor,
        timestep: int | float | Tensor,
        conditioning: Conditioning,
        signal: Signal | None = None,
    ) -> Tensor:
        others = dict(signal or {})
        now = Situation(latents, timestep, others.pop(HINT, None))
        handles = self.control.hook(self.network, now)
        try:
            return super().predict(latents, timestep, conditioning, Signal(others) if others else None)
        finally:
            for handle in handles:
                handle.remove()


def first_channels(network: nn.Module) -> int:
    """Channels of the output of a U-Net's first convolution."""
    conv: Any = network.conv_in
    return conv.out_channels
