"""Gradient guidance from a predictor of edges (sketch-guided diffusion, arXiv:2211.13752).

    P(features of F(z_t, t, c_t), t) -> the edges of z_0              trained; F is locked
    ε <- ε + β |ε| / |g| g,   g = ∂|P - e|² / ∂z_t                    when drawing, while t is in the noisier half

P is a perceptron that sees one place at a time: all features of the U-Net at that place. |.| is over each sample. The
paper predicts the edges' latents; here they are the edges themselves, `targets` numbers a latent pixel. Training P
takes no gradient through F; drawing does, which makes a step two to three times as long. Each branch of
classifier-free guidance is moved by its own gradient before they are combined, which amplifies where the two differ;
the paper moves the latents once, after guidance, with β = 1.6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from diffusers.models.embeddings import Timesteps
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pixel_unshuffle
from torch.utils.hooks import RemovableHandle

from tether.base.denoiser import Denoiser
from tether.control.conditioning import Conditioning
from tether.control.control import Control, Steerable, register
from tether.control.signal import Signal
from tether.errors import TetherError
from tether.studies.earlier.inside import HINT, InsideControl, InsideDenoiser, Situation

if TYPE_CHECKING:
    from tether.base import Base
    from tether.training.batch import Batch

__all__ = ["EdgeGuidance", "EdgeLoss"]

STRENGTH = "strength"
"""The name of the strength in the signal, `(B, 1, 1, 1)`."""
TIME = 64
"""Channels of the timestep's embedding."""
EARLY = 0.5
"""The share of the timesteps, the noisier ones, that is guided."""


@register("edge-guidance")
class EdgeGuidance(InsideControl):
    """The predictor of edges, with the guidance by its gradient.

    Args:
        features: channels of all features of the U-Net together.
        factor: image pixels per latent pixel along one side.
        scale: β.
    """

    def __init__(self, features: int, factor: int = 8, scale: float = 0.3) -> None:
        Control.__init__(self)
        self.config: Mapping[str, Any] = {"features": features, "factor": factor, "scale": scale}
        targets = (factor // 2) ** 2
        self.frequencies = Timesteps(TIME, True, 0)
        self.layers = nn.Sequential(
            nn.Conv2d(features + TIME, 256, 1), nn.SiLU(), nn.Conv2d(256, 128, 1), nn.SiLU(), nn.Conv2d(128, targets, 1)
        )
        self.seen: list[Tensor] = []
        """The edges that were predicted in the latest forward pass of training."""

    @classmethod
    def from_base(cls, base: Steerable, **settings: Any) -> Self:
        spec, locked = base.denoiser.spec, base.denoiser.network
        if spec.noise.prediction_type != "epsilon":
            raise TetherError(f"edge-guidance needs a base that predicts ε, {base.name} has another prediction type")
        features = sum(_channels(block) for block in _places(locked))
        return cls(features, spec.latent_factor, **settings).to(locked.device).train()

    def encode(self, condition: Tensor) -> Tensor:
        """Condition `(B, 3, H, W)` in [0, 1] -> the edges at half its size, `(B, targets, H/factor, W/factor)`."""
        edges = avg_pool2d(condition.to(self.dtype).mean(dim=1, keepdim=True), 2)
        return pixel_unshuffle(edges, self.config["factor"] // 2)

    def signal(
        self, latents: Tensor, timestep: int | float | Tensor, conditioning: Conditioning, hint: Tensor
    ) -> Signal:
        full = super().signal(latents, timestep, conditioning, hint)
        return Signal({**full, STRENGTH: hint.new_ones(len(latents), 1, 1, 1)})

    def predicted(self, features: Sequence[Tensor], timesteps: int | float | Tensor, side: Sequence[int]) -> Tensor:
        """The edges, `(B, targets, h, w)`, of features of different sizes."""
        each = [interpolate(one.to(self.dtype), size=tuple(side), mode="bilinear") for one in features]
        batch = len(each[0])
        t = torch.as_tensor(timesteps, device=each[0].device).expand(batch)
        time = self.frequencies(t).to(self.dtype)[:, :, None, None].expand(-1, -1, *side)
        return self.layers(torch.cat([*each, time], dim=1))

    def wrap(self, denoiser: Denoiser) -> Denoiser:
        return _Guided(denoiser, self)

    def hook(self, network: Any, now: Situation) -> Sequence[RemovableHandle]:
        return []


class EdgeLoss:
    """The loss of the predictor, an auxiliary loss of `tether.training.auxiliary`: mean |P - e|².

    Args:
        control: an `EdgeGuidance`.
        base: is not used.
    """

    def __init__(self, control: Control, base: Base) -> None:
        if not isinstance(control, EdgeGuidance):
            raise TetherError(f"EdgeLoss is for edge-guidance, this control is of family {control.family!r}")
        self.control = control

    def __call__(self, batch: Batch) -> Tensor:
        wanted = self.control.encode(batch.conditions)
        return (self.control.seen.pop().float() - wanted.float()).square().mean()


class _Guided(InsideDenoiser):
    """The locked denoiser, guided by the gradient."""

    control: EdgeGuidance

    def predict(
        self,
        latents: Tensor,
        timestep: int | float | Tensor,
        conditioning: Conditioning,
        signal: Signal | None = None,
    ) -> Tensor:
        def plain(latents: Tensor) -> Tensor:
            return super(_Guided, self).predict(latents, timestep, conditioning)

        if self.control.training:
            prediction, features = self._looked(plain, latents)
            self.control.seen = [self.control.predicted(features, timestep, latents.shape[-2:])]
            return prediction
        early = torch.as_tensor(timestep).float().mean() >= (1 - EARLY) * self.spec.noise.steps
        if not signal or not early:
            return plain(latents)
        strength = signal[STRENGTH]
        wanted = signal[HINT] / strength.clamp(min=1e-6)
        with torch.inference_mode(False), torch.enable_grad():
            moving = latents.clone().requires_grad_(True)
            prediction, features = self._looked(plain, moving)
            edges = self.control.predicted(features, timestep, latents.shape[-2:])
            error = (edges - wanted.clone()).float().square().sum()  # its scale does not matter, but in half precision
            (gradient,) = torch.autograd.grad(error, moving)
        prediction = prediction.detach()
        length = _norm(prediction) / _norm(gradient).clamp(min=1e-12)
        return prediction + (self.control.config["scale"] * strength * length * gradient).to(prediction.dtype)

    def _looked(self, predict: Callable[[Tensor], Tensor], latents: Tensor) -> tuple[Tensor, list[Tensor]]:
        """A prediction, and the features that came up."""
        features: list[Tensor] = []

        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            features.append(output[0] if isinstance(output, tuple) else output)

        handles = [place.register_forward_hook(look) for place in _places(self.network)]
        try:
            return predict(latents), features
        finally:
            for handle in handles:
                handle.remove()


def _places(network: Any) -> list[nn.Module]:
    """The modules whose outputs are the features."""
    return [*network.down_blocks, network.mid_block, *network.up_blocks]


def _channels(block: Any) -> int:
    return block.resnets[-1].out_channels


def _norm(x: Tensor) -> Tensor:
    return x.float().flatten(1).norm(dim=1)[:, None, None, None]
