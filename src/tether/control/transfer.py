"""Moves a ControlNet from the base it was trained on to another of the same architecture.

The trainable copy started as the encoder of base A (arXiv:2302.05543, section 3.2), so what it learned is its
difference from A. Added to the encoder of base B, that is a control for B ("control transfer" in the authors' code):

    θc' = θc + (θB - θA)        for every tensor that control and bases share; all others stay

With A = B nothing changes, to the bit. Using a control unchanged on a fine-tuned base assumes that θB - θA is small,
and needs no conversion.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from tether.errors import TetherError

__all__ = ["transferred"]


def transferred(
    control: Mapping[str, Tensor], base_a: Mapping[str, Tensor], base_b: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The control's tensors moved from A to B, each in its own dtype; the sum is computed in float32.

    Args:
        control: the control's tensors.
        base_a: tensors of the denoiser it was trained on, under the same (diffusers') names.
        base_b: tensors of the denoiser it is moved to.

    Raises:
        TetherError: when one of the three has another architecture.
    """
    moved = {}
    for name, tensor in control.items():
        a, b = base_a.get(name), base_b.get(name)
        if (a is None) != (b is None):
            raise TetherError(
                f"cannot transfer: only one of the two base models has {name}; both must have the same architecture"
            )
        if a is None or b is None:
            moved[name] = tensor
            continue
        if not tensor.shape == a.shape == b.shape:
            shapes = ", ".join(str(tuple(t.shape)) for t in (tensor, a, b))
            raise TetherError(
                f"cannot transfer: {name} of control, A and B are {shapes}; all three must have the same architecture"
            )
        difference = b.float() - a.float()
        moved[name] = (tensor.float() + difference).to(tensor.dtype) if bool(difference.any()) else tensor
    if not any(name in base_a for name in control):
        raise TetherError("cannot transfer: control and base models share no tensor")
    return moved
