"""Turns the tensors of a file into the weights of a network, with one copy in memory.

A network is created on the "meta" device, its names and shapes are compared with the file's, and then each parameter is
replaced: by the mapped tensor itself if it has the wanted dtype, or else by a copy in it, after which the mapped pages
are released. At most the weights and one tensor are in memory at once.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tether.errors import TetherError

__all__ = ["FilePages", "cast", "check_fits_network", "materialize", "without_values"]


@contextmanager
def without_values() -> Iterator[None]:
    """Networks made in this block have shapes without values, on the "meta" device.

    Values that would be drawn are not: on "meta" that would load PyTorch's compiler, for nothing.
    """
    with torch.device("meta"), _Unfilled():
        yield


class _Unfilled(TorchFunctionMode):
    """New random tensors are empty, a tensor without values divided by a number is itself, and filling does nothing."""

    FILLING = (Tensor.uniform_, Tensor.normal_, Tensor.fill_, Tensor.zero_)
    DIVIDING = (Tensor.div, Tensor.__truediv__)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.randn:
            return torch.empty(*args, **kwargs)
        if getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        first = args[0] if args else None
        idle = func in self.FILLING or (func in self.DIVIDING and not isinstance(args[1], Tensor))
        return first if idle and isinstance(first, Tensor) and first.is_meta else func(*args, **kwargs)


def check_fits_network(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], what: str) -> None:
    """Refuses tensors that are not exactly the network's, by name and shape.

    Args:
        expected: the network's state dict.
        found: the file's tensors, under the network's names.
        what: the file's name in messages.

    Raises:
        TetherError: naming a tensor that is missing, unexpected, of another shape, or not of floating point.
    """
    missing = [name for name in expected if name not in found]
    if missing:
        raise TetherError(f"{what} is incomplete: it lacks {_some(missing)}")
    extra = [name for name in found if name not in expected]
    if extra:
        raise TetherError(f"{what} has unexpected tensors: {_some(extra)}")
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape:
            raise TetherError(f"{what} has {name} of shape {tuple(found[name].shape)}: expected {tuple(tensor.shape)}")
        if tensor.is_floating_point() and not found[name].is_floating_point():
            raise TetherError(f"{what} has {name} as {found[name].dtype}: expected a floating-point type")


def cast(tensor: Tensor, dtype: torch.dtype | None, name: str, what: str) -> Tensor:
    """A tensor in another dtype (itself if it already has that dtype), after checking its values.

    Args:
        tensor: any shape; integers are returned as they are.
        dtype: the dtype, or None to keep it.
        name, what: names of the tensor and the file in messages.

    Raises:
        TetherError: if it contains NaN or infinity, or values too large for the dtype.
    """
    if not tensor.is_floating_point():
        return tensor
    dtype = dtype or tensor.dtype
    if tensor.numel():
        # aminmax of 8-bit types is not supported on every device; they are an eighth of the weights at most.
        numbers = tensor.float() if tensor.dtype.itemsize == 1 else tensor
        low, high = (float(bound) for bound in numbers.aminmax())
        if not max(abs(low), abs(high)) < float("inf"):  # written so that NaN fails
            raise TetherError(f"{what} is damaged: {name} contains NaN or infinity")
        if max(abs(low), abs(high)) > torch.finfo(dtype).max:
            kind = str(dtype).removeprefix("torch.")
            raise TetherError(f"{name} of {what} does not fit into {kind}: it reaches {max(abs(low), abs(high)):.3g}")
    return tensor.to(dtype)


def materialize(network: nn.Module, tensors: Mapping[str, Tensor], dtype: torch.dtype | None, what: str) -> None:
    """Loads weights into a network on "meta".

    Args:
        network: its parameters are replaced.
        tensors: mapped tensors under the network's names, all of them and no others.
        dtype: what they are cast to; None keeps their dtypes.
        what: the file's name in messages.

    Raises:
        TetherError: as `check_fits_network` and `cast`.
    """
    check_fits_network(network.state_dict(), tensors, what)
    pages = FilePages()
    weights = {}
    for name, tensor in tensors.items():
        weights[name] = cast(tensor, dtype, name, what)
        if weights[name] is not tensor:
            pages.give_back(tensor)
    network.load_state_dict(weights, assign=True)
    for module in network.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta and name == "position_ids":  # 0, 1, 2, ...; not saved in files
                module.register_buffer(name, torch.arange(buffer.shape[-1]).expand(buffer.shape), persistent=False)
    left = [name for name, tensor in (*network.named_parameters(), *network.named_buffers()) if tensor.is_meta]
    if left:
        raise TetherError(f"{what} is incomplete: it lacks {_some(left)}")


def _some(names: list[str]) -> str:
    few = ", ".join(names[:3])
    return few if len(names) <= 3 else f"{few} and {len(names) - 3} more"


class FilePages:
    """The memory pages of mapped files. Released pages are read from their file again when they are used."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []
        if sys.platform == "linux":
            lines = (line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines())
            for places, rights, _, _, inode, *_ in lines:
                if inode != "0" and rights.endswith("p"):
                    begin, end = (int(place, 16) for place in places.split("-"))
                    self._ranges.append((begin, end))

    def give_back(self, tensor: Tensor) -> None:
        """Releases the whole pages of a mapped tensor that was not modified; does nothing to other tensors."""
        if not tensor.is_contiguous() or tensor.device.type != "cpu":
            return
        begin = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE  # pages shared with neighboring tensors stay
        end = (tensor.data_ptr() + tensor.numel() * tensor.element_size()) // mmap.PAGESIZE * mmap.PAGESIZE
        if begin < end and any(first <= begin and end <= last for first, last in self._ranges):
            ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)
