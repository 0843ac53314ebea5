"""Consistency feedback (ControlNet++, arXiv:2404.07987): the condition is found again in what is drawn, and compared.

    z_0' = clean estimate from z_t and F(z_t, t, c_t, c_f)           one step, for little noise: t below `until` T
    L_feedback = reward loss of (decoded z_0', c_i)                  by a differentiable annotator of the kind

An auxiliary loss by the name "feedback" (`tether.training.auxiliary`), for a control that draws already:

    auxiliary_losses: [{loss: feedback, weight: 0.5}]

| kind            | what finds the condition again                                  | loss                        |
|-----------------|-----------------------------------------------------------------|-----------------------------|
| canny           | soft Canny: gradients, local maxima, a smooth threshold         | 1 - soft F1, 1 px tolerance |
| depth, normal   | the judge of scenes (`tether.evaluation.judge`), for scenes     | L1; 1 - cosine              |

`tether evaluate` asks the same judge, so a better score in depth or normals after feedback may be the judge's weakness.
Canny edges are measured by OpenCV's, which this file does not use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import conv2d, cosine_similarity, max_pool2d, pad

from tether.base import Base
from tether.control.control import Control
from tether.errors import TetherError
from tether.evaluation.judge import JudgeNetwork, Verdict, load_judge
from tether.training.batch import Batch

__all__ = ["REWARDS", "Feedback", "Reward", "soft_canny", "soft_f1"]

Reward = Callable[[Tensor, Tensor], Tensor]
"""(pixels `(B, 3, H, W)` in [-1, 1], conditions `(B, 3, H, W)` in [0, 1]) -> losses `(B,)`."""

THRESHOLD, SOFTNESS = 150.0, 25.0
"""Of a soft edge: the gradient, by Sobel's L1 norm of levels of 255, at which it is a half; between Canny's two."""
TOLERANCE = 1
"""Pixels between an edge and its counterpart."""


class Feedback:
    """The loss.

    Args:
        control: of one of the kinds above.
        base: its autoencoder decodes.
        until: share of the timesteps, those of the least noise, that get feedback; 0.2 in the paper.

    Raises:
        TetherError: for another kind, or a share outside of (0, 1].
    """

    uses_autoencoder = True

    def __init__(self, control: Control, base: Base, until: float = 0.2) -> None:
        if control.kind is None or control.kind not in REWARDS:
            kind = "several kinds" if len(control.kinds) > 1 else f"the kind {control.kind!r}"
            raise TetherError(f"feedback is for {', '.join(REWARDS)}; this control is for {kind}: leave feedback out")
        if not 0 < until <= 1:
            raise TetherError(f"feedback's until is {until:g}: expected a share of the timesteps, above 0 and up to 1")
        self.reward, self.base, self.until = REWARDS[control.kind], base, until
        self._seen: tuple[Tensor, Tensor, Tensor] | None = None

    def watch(self, noisy: Tensor, timesteps: Tensor, prediction: Tensor) -> None:
        """Called in the forward pass: z_t `(B, C, h, w)`, t `(B,)` and the prediction `(B, C, h, w)`."""
        self._seen = noisy, timesteps, prediction

    def __call__(self, batch: Batch) -> Tensor:
        """The sum over the samples of little noise, by the batch's size: so it does not depend on how a step's samples
        are split."""
        assert self._seen is not None
        noisy, timesteps, prediction = self._seen
        self._seen = None
        chosen = timesteps < self.until * self.base.noise.steps
        if not chosen.any():
            return prediction.new_zeros((), dtype=torch.float32)
        clean = self.base.noise.clean_estimate(noisy[chosen].float(), prediction[chosen].float(), timesteps[chosen])
        losses = self.reward(_decoded(self.base, clean), batch.conditions[chosen].float())
        return losses.sum() / len(timesteps)


def _decoded(base: Base, latents: Tensor) -> Tensor:
    """Latents -> pixels `(B, 3, H, W)`, about [-1, 1], with gradients."""
    shift = base.vae.config.get("shift_factor") or 0.0
    latents = latents / base.vae.config["scaling_factor"] + shift
    return base.vae.decode(latents.to(base.vae.dtype)).sample.float()  # type: ignore[union-attr]


def soft_canny(pixels: Tensor) -> Tensor:
    """Edges `(B, 1, H, W)` in [0, 1] of pixels `(B, 3, H, W)` in [-1, 1], with gradients.

    As in Canny's, a pixel counts where its gradient, of the channel that has the largest, is a maximum across the edge.
    Which pixels those are has no gradient, how strong they are has.
    """
    levels = (pixels + 1) * 127.5
    sobel = levels.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    kernels = torch.stack([sobel, sobel.t()])[:, None].repeat(3, 1, 1, 1)
    each = conv2d(pad(levels, (1, 1, 1, 1), mode="replicate"), kernels, groups=3)
    x, y = each[:, 0::2], each[:, 1::2]
    largest = (x.abs() + y.abs()).argmax(dim=1, keepdim=True)
    x, y = x.gather(1, largest), y.gather(1, largest)
    strength = x.abs() + y.abs()
    return torch.sigmoid((strength - THRESHOLD) / SOFTNESS) * _maxima(strength.detach(), x.detach(), y.detach())


def _maxima(strength: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """1 where the gradient is a maximum along its own direction, which is taken to be one of four."""
    around = pad(strength, (1, 1, 1, 1))
    height, width = strength.shape[-2:]

    def moved(dy: int, dx: int) -> Tensor:
        return around[..., 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]

    def largest(dy: int, dx: int) -> Tensor:
        return (strength >= moved(dy, dx)) & (strength > moved(-dy, -dx))

    flat, steep = y.abs() < 0.4142 * x.abs(), y.abs() > 2.4142 * x.abs()
    falling = torch.where(x * y > 0, largest(1, 1), largest(1, -1))
    return torch.where(flat, largest(0, 1), torch.where(steep, largest(1, 0), falling)).to(strength.dtype)


def soft_f1(found: Tensor, wanted: Tensor, tolerance: int = TOLERANCE) -> Tensor:
    """F1 `(B,)` of soft edges `(B, 1, H, W)` and wanted ones, all in [0, 1].

    Precision is the share of what was found that has a wanted edge near it; recall that of the wanted near one found.
    """

    def near(edges: Tensor) -> Tensor:
        return max_pool2d(edges, 2 * tolerance + 1, stride=1, padding=tolerance)

    def share(of: Tensor, other: Tensor) -> Tensor:
        return ((of * near(other)).sum(dim=(1, 2, 3)) + 1e-3) / (of.sum(dim=(1, 2, 3)) + 1e-3)

    precision, recall = share(found, wanted), share(wanted, found)
    return 2 * precision * recall / (precision + recall)


def _canny(pixels: Tensor, conditions: Tensor) -> Tensor:
    return 1 - soft_f1(soft_canny(pixels), conditions.amax(dim=1, keepdim=True))


def _depth(pixels: Tensor, conditions: Tensor) -> Tensor:
    return (_judged(pixels).depth - conditions.mean(dim=1, keepdim=True)).abs().mean(dim=(1, 2, 3))


def _normal(pixels: Tensor, conditions: Tensor) -> Tensor:
    found = _judged(pixels).normals
    return (1 - cosine_similarity(found, 2 * conditions - 1, dim=1)).mean(dim=(1, 2))


def _judged(pixels: Tensor) -> Verdict:
    """What the judge of scenes says of pixels, with gradients."""
    return _network(pixels.device)(pixels)


@cache
def _network(device: torch.device) -> JudgeNetwork:
    """The judge's network on a device; the judge itself stays where it is."""
    return deepcopy(load_judge().network).to(device)


REWARDS: Mapping[str, Reward] = {"canny": _canny, "depth": _depth, "normal": _normal}
"""The kinds that feedback is for."""
