"""Tensors of a file become the weights of a network, and are in memory once.

A network is made without numbers (on the "meta" device), its names and shapes are compared with the file's, and then
each tensor takes its place: the mapped one itself where the type is right, else a copy in the right type, after which
the mapped pages are given back. No more than the weights and one tensor are ever in memory.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from tether.errors import TetherError

__all__ = ["FilePages", "cast", "check_fits_network", "land"]


def check_fits_network(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], what: str) -> None:
    """Refuses tensors that are not exactly the network's, by name and shape.

    Args:
        expected: the network's state dict.
        found: the file's tensors, under the network's names.
        what: how the message calls the file and what it should hold.

    Raises:
        TetherError: naming a tensor that is missing, left over, of another shape or no floating point.
    """
    missing = [name for name in expected if name not in found]
    if missing:
        raise TetherError(f"{what} is incomplete: it lacks {_some(missing)}")
    extra = [name for name in found if name not in expected]
    if extra:
        raise TetherError(f"{what} holds tensors that do not belong in it: {_some(extra)}")
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape:
            raise TetherError(f"{what} has {name} of {tuple(found[name].shape)}: expected {tuple(tensor.shape)}")
        if tensor.is_floating_point() and not found[name].is_floating_point():
            raise TetherError(f"{what} has {name} as {found[name].dtype}: expected numbers of floating point")


def cast(tensor: Tensor, dtype: torch.dtype | None, name: str, what: str) -> Tensor:
    """A tensor in another type, itself where it has that type; its numbers looked at.

    Args:
        tensor: any shape; one that is not of floating point stays as it is.
        dtype: the type, or None to leave it.
        name, what: how messages call the tensor and the file.

    Raises:
        TetherError: where it holds NaN or infinity, or numbers too large for the type.
    """
    if not tensor.is_floating_point():
        return tensor
    dtype = dtype or tensor.dtype
    if tensor.numel():
        # Small types have no minimum and maximum on every device; they are an eighth of the weights at most.
        numbers = tensor.float() if tensor.dtype.itemsize == 1 else tensor
        low, high = (float(bound) for bound in numbers.aminmax())
        if not max(abs(low), abs(high)) < float("inf"):  # written so that NaN fails
            raise TetherError(f"{what} is broken: {name} holds NaN or infinity")
        if max(abs(low), abs(high)) > torch.finfo(dtype).max:
            kind = str(dtype).removeprefix("torch.")
            raise TetherError(f"{name} of {what} does not fit in {kind} (it has {max(abs(low), abs(high)):.3g})")
    return tensor.to(dtype)


def land(network: nn.Module, tensors: Mapping[str, Tensor], dtype: torch.dtype | None, what: str) -> None:
    """Gives a network that was made on "meta" its weights.

    Args:
        network: its parameters are replaced.
        tensors: mapped tensors under the network's names, all of them and no others.
        dtype: what they are cast to; None leaves them as they are.
        what: how messages call the file.

    Raises:
        TetherError: as `check_fits_network` and `cast`.
    """
    check_fits_network(network.state_dict(), tensors, what)
    pages = FilePages()
    landed = {}
    for name, tensor in tensors.items():
        landed[name] = cast(tensor, dtype, name, what)
        if landed[name] is not tensor:
            pages.give_back(tensor)
    network.load_state_dict(landed, assign=True)
    for module in network.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta and name == "position_ids":  # 0, 1, 2, ...: never saved
                module.register_buffer(name, torch.arange(buffer.shape[-1]).expand(buffer.shape), persistent=False)
    left = [name for name, tensor in (*network.named_parameters(), *network.named_buffers()) if tensor.is_meta]
    if left:
        raise TetherError(f"{what} is incomplete: it lacks {_some(left)}")


def _some(names: list[str]) -> str:
    few = ", ".join(names[:3])
    return few if len(names) <= 3 else f"{few} and {len(names) - 3} more"


class FilePages:
    """The pages of this process that files are mapped to: they can be given back, and read again."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []
        if sys.platform == "linux":
            lines = (line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines())
            for places, rights, _, _, inode, *_ in lines:
                if inode != "0" and rights.endswith("p"):
                    begin, end = (int(place, 16) for place in places.split("-"))
                    self._ranges.append((begin, end))

    def give_back(self, tensor: Tensor) -> None:
        """Frees the whole pages inside a tensor of a file, as nobody wrote to it; does nothing to other tensors."""
        if not tensor.is_contiguous() or tensor.device.type != "cpu":
            return
        begin = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE  # its neighbours keep their pages
        end = (tensor.data_ptr() + tensor.numel() * tensor.element_size()) // mmap.PAGESIZE * mmap.PAGESIZE
        if begin < end and any(first <= begin and end <= last for first, last in self._ranges):
            ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)
