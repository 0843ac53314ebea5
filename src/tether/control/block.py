"""Control for one block of any network (arXiv:2302.05543, equation 2 and figure 2).

    y = F(x; θ)                                             the block as it was
    y_c = F(x; θ) + Z(F(x + Z(c; θz1); θc); θz2)            the block under control

| paper        | here                 |                                                                |
|--------------|----------------------|----------------------------------------------------------------|
| F(·; θ)      | `block.locked`       | the block itself; its parameters get no gradient               |
| F(·; θc)     | `block.copy`         | a deep copy of it, trainable                                   |
| Z(·; θz1)    | `block.zero_in`      | zero layer, channels of c -> channels of x                     |
| Z(·; θz2)    | `block.zero_out`     | zero layer, channels of y -> channels of y                     |
| c            | `c`                  | the condition, resized to x's size if it has another           |

Before training both zero layers output zero, so y_c = y exactly (equation 3).
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.functional import interpolate

from tether.control.zero import ZeroConv2d, ZeroLinear
from tether.errors import TetherError

__all__ = ["ControlledBlock", "Layout"]

Layout = Literal["conv", "linear"]
"""Where a tensor has its channels: "conv" is (B, C, H, W), "linear" is (B, ..., C)."""


class ControlledBlock(nn.Module):
    """A locked block F, its trainable copy and the two zero layers between them (equation 2).

    Args:
        F: any module ``F(x, *args, **kwargs) -> y`` of tensors x and y; of a tuple, the first element is y. It is
            locked: its parameters get no gradient, and it stays in evaluation mode, so that running statistics do not
            change either. `release` undoes this. Attributes that this block does not have are F's.
        in_channels, out_channels: channels of x and of y. By default those of F's first and last convolution or
            linear layer.
        condition_channels: channels of c; `in_channels` by default.
        layout: "conv" when x and y are `(B, C, H, W)`, "linear" when they are `(B, ..., C)`. By default "conv" where F
            has a convolution, since blocks for images may have linear layers too.

    Raises:
        TetherError: when channels or layout are not given and F has no layer to read them from, or when F is a
            `ControlledBlock` already.
    """

    def __init__(
        self,
        F: nn.Module,
        *,
        in_channels: int | None = None,
        out_channels: int | None = None,
        condition_channels: int | None = None,
        layout: Layout | None = None,
    ) -> None:
        super().__init__()
        if isinstance(F, ControlledBlock):
            raise TetherError("this block is under control already: detach that control first")
        layout, x_channels, y_channels = _fit(F, layout, in_channels, out_channels)
        zero_layer = ZeroConv2d if layout == "conv" else ZeroLinear
        like = next(F.parameters(), None)
        made = {} if like is None else {"device": like.device, "dtype": like.dtype}

        self.layout: Layout = layout
        self.copy = deepcopy(F)
        self.zero_in = zero_layer(condition_channels or x_channels, x_channels, **made)
        self.zero_out = zero_layer(y_channels, **made)
        for parameter in self.copy.parameters():
            parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())

        self.c: Tensor | None = None
        self._requires_grad = {name: parameter.requires_grad for name, parameter in F.named_parameters()}
        self._training = {name: module.training for name, module in F.named_modules()}
        self.locked = F.requires_grad_(False).eval()

    def forward(self, x: Tensor, *args: Any, c: Tensor | None = None, **kwargs: Any) -> Any:
        """Equation 2.

        Args:
            x: what F takes, `(B, in, H, W)` or `(B, ..., in)`.
            c: the condition, with `condition_channels` channels and a batch of B or 1. Images of another size are
                averaged (or repeated) to H and W; `(B, C)` is repeated over all positions. By default the attribute
                `c`; when that is None, this is F alone.
            *args, **kwargs: whatever else F takes (a time embedding, for example), for F and its copy alike.

        Returns:
            What F returns, with y under control.

        Raises:
            TetherError: when c does not fit x.
        """
        c = self.c if c is None else c
        y = self.locked(x, *args, **kwargs)
        if c is None:
            return y
        copied = self.copy(x + self.zero_in(self._fitted(c, x)), *args, **kwargs)
        if isinstance(y, tuple):
            return (y[0] + self.zero_out(copied[0]), *y[1:])
        return y + self.zero_out(copied)

    def __getattr__(self, name: str) -> Any:
        """Networks look at attributes of their blocks: what this block does not have is the locked block's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "locked":
                raise
            return getattr(self.locked, name)

    def train(self, mode: bool = True) -> ControlledBlock:
        """Set training mode on the copy; the locked block stays in evaluation mode."""
        super().train(mode)
        self.locked.eval()
        return self

    def release(self) -> nn.Module:
        """Restores F's `requires_grad` flags and training modes, and returns F."""
        for name, parameter in self.locked.named_parameters():
            parameter.requires_grad_(self._requires_grad[name])
        for name, module in self.locked.named_modules():
            module.training = self._training[name]
        return self.locked

    def _fitted(self, c: Tensor, x: Tensor) -> Tensor:
        """c in the size of x."""
        channels = int(self.zero_in.weight.shape[1])
        spatial = x.shape[2:] if self.layout == "conv" else x.shape[1:-1]
        if c.ndim == 2 and x.ndim > 2:
            c = c[:, :, None, None] if self.layout == "conv" else c.reshape(len(c), *[1] * len(spatial), -1)
            c = c.expand(*((-1, -1, *spatial) if self.layout == "conv" else (-1, *spatial, -1)))
        elif self.layout == "conv" and c.ndim == 4 and c.shape[2:] != spatial:
            c = interpolate(c, tuple(spatial), mode="area")
        expected = (len(x), channels, *spatial) if self.layout == "conv" else (len(x), *spatial, channels)
        if tuple(c.shape) not in (expected, (1, *expected[1:])):
            raise TetherError(f"condition c has shape {tuple(c.shape)}; for this x it must be {expected}")
        return c


def _fit(
    F: nn.Module, layout: Layout | None, in_channels: int | None, out_channels: int | None
) -> tuple[Layout, int, int]:
    """Layout, channels of x and of y: as given, else from F's first and last layer of that layout."""
    kinds: dict[Layout, Any] = {"conv": (nn.Conv2d, nn.ConvTranspose2d), "linear": nn.Linear}
    if layout is not None and layout not in kinds:
        raise TetherError(f"layout is {layout!r}; it must be 'conv' or 'linear'")
    found: dict[Layout, list[Any]] = {kind: [m for m in F.modules() if isinstance(m, kinds[kind])] for kind in kinds}
    if layout is None and any(found.values()):
        layout = "conv" if found["conv"] else "linear"
    layers = found[layout] if layout is not None else []
    if layers:
        first, last = layers[0], layers[-1]
        if in_channels is None:
            in_channels = first.in_channels if layout == "conv" else first.in_features
        if out_channels is None:
            out_channels = last.out_channels if layout == "conv" else last.out_features
    if layout is None or in_channels is None or out_channels is None:
        raise TetherError(
            f"{type(F).__name__} has no convolution or linear layer to read its channels from: "
            "give in_channels, out_channels and layout"
        )
    return layout, in_channels, out_channels
