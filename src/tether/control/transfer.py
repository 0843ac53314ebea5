"""A control trained on one base, moved to another.

The trainable copy began as the encoder of base A, so that what it learned is its difference from A; added to the
encoder of base B that is a control for B (the "control transfer" of the released code):

    θc' = θc + (θB - θA)        for every tensor that control and bases have;  all others stay

With A = B nothing changes, bit for bit. Using a control unchanged on a fine-tuned base is the same with θB - θA taken
to be small, and needs no conversion.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from tether.errors import TetherError

__all__ = ["transferred"]


def transferred(
    control: Mapping[str, Tensor], base_a: Mapping[str, Tensor], base_b: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The control's tensors moved from A to B, each of the type it had; the sum is taken in float32.

    Args:
        control: the control's tensors.
        base_a: those of the denoiser it was trained on, under the same (diffusers') names.
        base_b: those of the denoiser it is moved to.

    Raises:
        TetherError: where one of the three is of another architecture.
    """
    moved = {}
    for name, tensor in control.items():
        a, b = base_a.get(name), base_b.get(name)
        if (a is None) != (b is None):
            raise TetherError(f"cannot transfer: only one of the two bases has {name}; they are of different kinds")
        if a is None or b is None:
            moved[name] = tensor
            continue
        if not tensor.shape == a.shape == b.shape:
            shapes = ", ".join(str(tuple(t.shape)) for t in (tensor, a, b))
            raise TetherError(
                f"cannot transfer: {name} of control, A and B are {shapes}; all three must be of one kind"
            )
        difference = b.float() - a.float()
        moved[name] = (tensor.float() + difference).to(tensor.dtype) if bool(difference.any()) else tensor
    if not any(name in base_a for name in control):
        raise TetherError("cannot transfer: control and bases have no tensor in common")
    return moved
