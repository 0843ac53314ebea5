"""Control for one block of any network (paper, equation 2 and figure 2).

    y = F(x; θ)                                             the block as it was
    y_c = F(x; θ) + Z(F(x + Z(c; θz1); θc); θz2)            the block under control

| paper        | here                 |                                                                |
|--------------|----------------------|----------------------------------------------------------------|
| F(·; θ)      | `block.locked`       | the block itself; its parameters take no gradient              |
| F(·; θc)     | `block.copy`         | a deep copy of it, trainable                                   |
| Z(·; θz1)    | `block.zero_in`      | zero layer, channels of c -> channels of x                     |
| Z(·; θz2)    | `block.zero_out`     | zero layer, channels of y -> channels of y                     |
| c            | `c`                  | the condition, of x's size in every dimension but the channels |

Before training both zero layers give nothing, so y_c = y exactly (equation 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Literal

from torch import Tensor, nn

from tether.control.zero import ZeroConv2d, ZeroLinear
from tether.errors import TetherError

__all__ = ["ControlledBlock", "Layout", "attach", "attached", "detach"]

Layout = Literal["conv", "linear"]
"""Where a tensor keeps its channels: "conv" is (B, C, H, W), "linear" is (B, ..., C)."""


class ControlledBlock(nn.Module):
    """A locked block F, its trainable copy and the two zero layers between them (equation 2).

    Args:
        F: any module that maps a tensor to a tensor, ``F(x, *args, **kwargs) -> y``. It is locked: no
            parameter of it takes a gradient and it stays in evaluation mode, so that not even running
            statistics change. `release` gives it back as it was.
        in_channels, out_channels: channels of x and of y. Read from F's first and last convolution or linear
            layer when left out.
        condition_channels: channels of c; `in_channels` when left out.
        layout: "conv" when x and y are (B, C, H, W), "linear" when they are (B, ..., C). When left out, "conv"
            where F has a convolution: images pass through linear layers too, between two foldings.

    Raises:
        TetherError: when channels or layout are left out and F has no layer to read them from, or when F is a
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
            raise TetherError("this block is under control already: detach it before attaching a new one")
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

    def forward(self, x: Tensor, *args: Any, c: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Equation 2.

        Args:
            x: what F takes: (B, in, H, W) or (B, ..., in).
            c: the condition, of x's size but with `condition_channels` channels, or a batch of one for all.
                When left out, the one set by `conditioned`; when there is none either, the block is F alone.
            *args, **kwargs: whatever else F takes (a time embedding, say), for F and its copy alike.

        Returns:
            y, of F's output size.

        Raises:
            TetherError: when c does not fit x.
        """
        c = self.c if c is None else c
        y = self.locked(x, *args, **kwargs)
        if c is None:
            return y
        self._check_condition(x, c)
        return y + self.zero_out(self.copy(x + self.zero_in(c), *args, **kwargs))

    @contextmanager
    def conditioned(self, c: Tensor) -> Iterator[ControlledBlock]:
        """Inside, every forward that is given no condition uses c: for a block that sits inside a model."""
        before, self.c = self.c, c
        try:
            yield self
        finally:
            self.c = before

    def train(self, mode: bool = True) -> ControlledBlock:
        """Set training mode on the copy; the locked block stays in evaluation mode."""
        super().train(mode)
        self.locked.eval()
        return self

    def release(self) -> nn.Module:
        """Unlock F: its `requires_grad` flags and training modes become what they were. Returns F."""
        for name, parameter in self.locked.named_parameters():
            parameter.requires_grad_(self._requires_grad[name])
        for name, module in self.locked.named_modules():
            module.training = self._training[name]
        return self.locked

    def _check_condition(self, x: Tensor, c: Tensor) -> None:
        channels_at = 1 if self.layout == "conv" else -1
        expected = list(x.shape)
        expected[channels_at] = int(self.zero_in.weight.shape[1])
        if list(c.shape) not in (expected, [1, *expected[1:]]):
            raise TetherError(f"condition c has shape {tuple(c.shape)}; for this x it must be {tuple(expected)}")


def attach(
    model: nn.Module,
    path: str,
    *,
    in_channels: int | None = None,
    out_channels: int | None = None,
    condition_channels: int | None = None,
    layout: Layout | None = None,
) -> ControlledBlock:
    """Put the block at `path` (as in ``model.get_submodule(path)``) under control, in place.

    Args:
        model: the model; nothing of it changes but this block.
        path: dotted name of the block inside it, "encoder.layers.3".
        in_channels, out_channels, condition_channels, layout: as for `ControlledBlock`.

    Returns:
        The controlled block that now sits at `path`. `detach` reverses it.

    Raises:
        TetherError: when there is no such block, or as `ControlledBlock`.
    """
    parent, name = _find(model, path)
    block = ControlledBlock(
        getattr(parent, name),
        in_channels=in_channels,
        out_channels=out_channels,
        condition_channels=condition_channels,
        layout=layout,
    )
    setattr(parent, name, block)
    return block


def detach(model: nn.Module, path: str) -> ControlledBlock:
    """Put the original block back at `path`: the model is bit-identical to what it was before `attach`.

    State dict, module objects, `requires_grad` flags and training modes are restored.

    Returns:
        The controlled block that was taken out, with what its copy has learned.

    Raises:
        TetherError: when the block at `path` is not under control.
    """
    parent, name = _find(model, path)
    block = getattr(parent, name)
    if not isinstance(block, ControlledBlock):
        raise TetherError(f"block '{path}' is not under control: attach it first")
    setattr(parent, name, block.release())
    return block


@contextmanager
def attached(
    model: nn.Module,
    path: str,
    *,
    in_channels: int | None = None,
    out_channels: int | None = None,
    condition_channels: int | None = None,
    layout: Layout | None = None,
) -> Iterator[ControlledBlock]:
    """`attach` on entry and `detach` on exit, also when the body raises."""
    block = attach(
        model,
        path,
        in_channels=in_channels,
        out_channels=out_channels,
        condition_channels=condition_channels,
        layout=layout,
    )
    try:
        yield block
    finally:
        detach(model, path)


def _find(model: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The module that holds the block at `path`, and the block's name in it."""
    parent_path, _, name = path.rpartition(".")
    try:
        model.get_submodule(path)
        parent = model.get_submodule(parent_path)
    except AttributeError:
        raise TetherError(f"{type(model).__name__} has no block '{path}': see model.named_modules()") from None
    if not name:
        raise TetherError("a block's path inside the model is needed; for the whole model use ControlledBlock(model)")
    return parent, name


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
