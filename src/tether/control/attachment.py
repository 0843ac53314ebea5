"""Puts any PyTorch network under control: `ControlledBlock` for some of its blocks (arXiv:2302.05543, equation 2).

    control = tether.attach(network, ["layers.0", "layers.1"], condition=8)
    y = control(x, c=c)                    # the network with condition c (B, 8, ...); network(x) is the network alone
    torch.optim.AdamW(control.parameters())
    control.save("control.safetensors")
    control.detach()                       # the network is bit-identical to what it was

The whole network is locked while it is under control. Before training, control(x, c=c) equals network(x) exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from torch import nn

from tether.control.block import ControlledBlock, Layout
from tether.errors import TetherError

__all__ = ["Attached", "attach"]

Blocks = str | Sequence[str] | Callable[[str, nn.Module], bool]
"""Dotted paths of blocks, or a function of path and module that says which blocks; of nested ones the outermost."""


def attach(
    network: nn.Module,
    blocks: Blocks,
    condition: int | nn.Module,
    *,
    condition_channels: int | None = None,
    in_channels: int | None = None,
    out_channels: int | None = None,
    layout: Layout | None = None,
) -> Attached:
    """Puts blocks of a network under control, in place. The network is locked until `Attached.detach`.

    Args:
        network: any module. Each block must map a tensor x (its first argument) to a tensor y.
        blocks: their paths as in ``network.get_submodule(path)``, or a function ``(path, module) -> bool``.
        condition: the channels of the condition c; or a module that encodes c, trained together with the copies.
            Features of another height and width than a block's x are averaged or repeated to that size; features
            `(B, C)` act on every position.
        condition_channels: channels of what the encoder returns; by default those of its last convolution or linear
            layer.
        in_channels, out_channels, layout: of the blocks, see `ControlledBlock`; by default read from each block.

    Returns:
        The trainable side: a module whose parameters and state dict are the encoder's, the copies' and the zero layers'
        alone.

    Raises:
        TetherError: when a path is not a block of the network, blocks are nested, none is chosen, or channels cannot be
            read. The network is then as it was.
    """
    encoder = condition if isinstance(condition, nn.Module) else nn.Identity()
    if isinstance(condition, int):
        condition_channels = condition
    elif condition_channels is None:
        condition_channels = _last_channels(encoder)
    control = Attached(network, encoder)
    try:
        for path in _paths(network, blocks):
            control._control(
                path,
                condition_channels=condition_channels,
                in_channels=in_channels,
                out_channels=out_channels,
                layout=layout,
            )
    except BaseException:
        control.detach()
        raise
    return control


class Attached(nn.Module):
    """What is trained of a network under control; made by `attach`.

    As a module it holds the encoder and, for each block, copy and zero layers: `parameters()` are the trainable ones,
    `state_dict()` is what was learned. The network is not part of it. It is a context manager that detaches at the end.

    Attributes:
        encoder: the condition's encoder; the identity by default.
        learned: copy and zero layers of each block; dots of a block's path are slashes in its name here.
    """

    def __init__(self, network: nn.Module, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.learned = nn.ModuleDict()
        self._network = (network,)  # in a tuple, so that it is not registered as a submodule
        self._blocks: dict[str, ControlledBlock] = {}
        self._requires_grad = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
        self._training = {name: module.training for name, module in network.named_modules()}
        network.requires_grad_(False).eval()

    @property
    def network(self) -> nn.Module:
        """The network under control."""
        return self._network[0]

    def forward(self, *args: Any, c: Any, **kwargs: Any) -> Any:
        """``network(*args, **kwargs)`` under the condition c."""
        with self.conditioned(c):
            return self.network(*args, **kwargs)

    @contextmanager
    def conditioned(self, c: Any) -> Iterator[Self]:
        """Inside, the network runs under the condition c, which is encoded once.

        Raises:
            TetherError: when the control was detached.
        """
        if not self._blocks:
            raise TetherError("this control was detached: attach the network again and load what was learned")
        features = self.encoder(c)
        before = {path: block.c for path, block in self._blocks.items()}
        for block in self._blocks.values():
            block.c = features
        try:
            yield self
        finally:
            for path, block in self._blocks.items():
                block.c = before[path]

    def save(self, path: Path | str) -> None:
        """Writes what was learned to a safetensors file, as a whole or not at all; a file that is there is replaced.

        Raises:
            TetherError: when it cannot be written, or a weight is NaN or infinite.
        """
        from tether.files.writing import replacing, write_safetensors

        with replacing(Path(path), force=True) as part:
            write_safetensors(part, self.state_dict())

    def load(self, path: Path | str) -> Self:
        """Reads what `save` wrote, for the same blocks of a network of the same architecture.

        Raises:
            TetherError: when the file is missing, damaged, or of other blocks.
        """
        from tether.files.checkpoints import open_checkpoint
        from tether.files.materialize import check_fits_network

        if not Path(path).is_file():
            raise TetherError(f"{path} is not a file: give a file that a control was saved to")
        tensors = open_checkpoint(Path(path)).tensors
        check_fits_network(self.state_dict(), tensors, str(path))
        self.load_state_dict(tensors)
        return self

    def detach(self) -> nn.Module:
        """Restores the network bit-identically and returns it: modules, state dict, `requires_grad`, training modes.

        What was learned stays in this object. Detaching again does nothing.
        """
        for path, block in self._blocks.items():
            parent, _, name = path.rpartition(".")
            setattr(self.network.get_submodule(parent), name, block.locked)
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(self._requires_grad.get(name, parameter.requires_grad))
        for name, module in self.network.named_modules():
            module.training = self._training.get(name, module.training)
        self._blocks, self._requires_grad, self._training = {}, {}, {}
        return self.network

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def _control(self, path: str, **channels: Any) -> None:
        """Puts one block under control."""
        parent, _, name = path.rpartition(".")
        try:
            block = ControlledBlock(self.network.get_submodule(path), **channels)
        except TetherError as error:
            raise TetherError(f"block {path!r}: {error}") from None
        setattr(self.network.get_submodule(parent), name, block)
        self._blocks[path] = block
        parts = {"copy": block.copy, "zero_in": block.zero_in, "zero_out": block.zero_out}
        self.learned[path.replace(".", "/")] = nn.ModuleDict(parts)


def _paths(network: nn.Module, blocks: Blocks) -> list[str]:
    """The paths of the chosen blocks.

    Raises:
        TetherError: as `attach`.
    """
    modules = dict(network.named_modules())
    if callable(blocks):
        chosen: list[str] = []
        for path, module in modules.items():
            if path and not any(path.startswith(f"{outer}.") for outer in chosen) and blocks(path, module):
                chosen.append(path)
    else:
        chosen = [blocks] if isinstance(blocks, str) else list(blocks)
    if not chosen:
        raise TetherError("no block was chosen: give paths from network.named_modules()")
    for path in chosen:
        if not path or path not in modules:
            raise TetherError(f"{type(network).__name__} has no block {path!r}: see network.named_modules()")
        if any(path == other or path.startswith(f"{other}.") for other in chosen if other is not path):
            raise TetherError(f"block {path!r} is chosen twice or lies inside another: choose one of them")
    return chosen


def _last_channels(encoder: nn.Module) -> int:
    """Channels of an encoder's output, from its last convolution or linear layer."""
    for module in reversed(list(encoder.modules())):
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            return module.out_channels
        if isinstance(module, nn.Linear):
            return module.out_features
    raise TetherError(f"{type(encoder).__name__} has no convolution or linear layer: give condition_channels")
