"""Small convolutional networks as data: a list of operations and their weights in one safetensors file, run by PyTorch.

The file's metadata `graph` is JSON:

    {"input": "x", "outputs": ["scores", ...], "nodes": [[operation, [inputs], output, {arguments}], ...]}

Operations are those of `OPERATIONS` and nothing else, so a file can run no code. Values are `(B, C, H, W)`. A weight is
stored in half precision, and if it is mostly zeros as `NAME.values` with `NAME.mask`, one bit an element, and
`NAME.shape`. All of it is made by `recipes/detectors.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tether.errors import TetherError
from tether.weights import shipped

__all__ = ["OPERATIONS", "Network", "shipped_network"]

Operation = Callable[..., Tensor]


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    pad: Sequence[int] = (0, 0, 0, 0),
    dilation: int = 1,
    groups: int = 1,
    act: str = "",
) -> Tensor:
    """A convolution; `pad` is left, right, top, bottom."""
    left, right, top, bottom = pad
    if left == right and top == bottom:
        y = F.conv2d(x, weight, bias, stride, (top, left), dilation, groups)
    else:
        y = F.conv2d(F.pad(x, tuple(pad)), weight, bias, stride, 0, dilation, groups)
    return _activated(y, act)


def _activated(x: Tensor, act: str) -> Tensor:
    if act == "relu":
        return x.relu_()
    return x.clamp_(0, 6) if act == "relu6" else x


def _add(a: Tensor, b: Tensor, *, act: str = "") -> Tensor:
    return _activated(a + b, act)


def _max_pool(x: Tensor, *, size: int, stride: int, pad: Sequence[int] = (0, 0, 0, 0), ceil: bool = False) -> Tensor:
    if any(pad):
        x = F.pad(x, tuple(pad), value=float("-inf"))
    return F.max_pool2d(x, size, stride, ceil_mode=ceil)


def _resize(x: Tensor, *, size: Sequence[int], align: bool = False) -> Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=align)


def _depth_to_space(x: Tensor, *, block: int) -> Tensor:
    """TensorFlow's order: the channels of an output pixel lie together."""
    batch, channels, height, width = x.shape
    blocks = x.reshape(batch, block, block, channels // block**2, height, width)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(batch, -1, height * block, width * block)


def _rows(x: Tensor, *, columns: int) -> Tensor:
    """`(B, C, H, W)` with the channels last, as rows of so many columns, `(B, N, columns)`."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, columns)


OPERATIONS: dict[str, Operation] = {
    "conv": _conv,
    "add": _add,
    "relu": lambda x: x.relu(),
    "prelu": F.prelu,
    "sigmoid": torch.sigmoid,
    "max_pool": _max_pool,
    "pad": lambda x, *, pad: F.pad(x, tuple(pad)),
    "resize": _resize,
    "depth_to_space": _depth_to_space,
    "rows": _rows,
    "concat": lambda *parts, axis: torch.cat(parts, axis),
    "mean": lambda x: x.mean((2, 3), keepdim=True),
    "linear": lambda x, weight, bias: F.linear(x.flatten(1), weight, bias),
    "channels": lambda x, *, start, end: x[:, start:end],
}
"""What a node may do, by name."""


class Network:
    """A network read from a file.

    Args:
        path: a safetensors file with a graph.

    Raises:
        TetherError: when the file is missing, damaged, or has a graph that is not valid.
    """

    def __init__(self, path: Path) -> None:
        try:
            with safe_open(path, "pt") as file:
                graph = json.loads((file.metadata() or {})["graph"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self._input: str = graph["input"]
            self._outputs: list[str] = graph["outputs"]
            self._nodes = [
                (OPERATIONS[op], inputs, output, dict(about)) for op, inputs, output, about in graph["nodes"]
            ]
            self._weights = _dense(tensors)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise TetherError(f"{path} is not a network that Tether can run: {str(error).splitlines()[0]}") from None
        self._last = {name: k for k, (_, inputs, _, _) in enumerate(self._nodes) for name in inputs}

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> list[Tensor]:
        """The outputs for an input `(B, C, H, W)`, float32."""
        values: dict[str, Tensor] = {self._input: x.contiguous(memory_format=torch.channels_last)}
        for k, (operation, inputs, output, about) in enumerate(self._nodes):
            given = [values[name] if name in values else self._weights[name] for name in inputs]
            values[output] = operation(*given, **about)
            for name in inputs:
                if self._last[name] == k and name not in self._outputs:
                    values.pop(name, None)
        return [values[name] for name in self._outputs]


def _dense(tensors: dict[str, Any]) -> dict[str, Tensor]:
    """The weights in float32, whole, in the memory format that convolutions are fastest in."""
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(".values"):
            stem = name.removesuffix(".values")
            shape = tensors[f"{stem}.shape"].tolist()
            bits = np.unpackbits(tensors[f"{stem}.mask"].numpy(), count=int(np.prod(shape)))
            flat = torch.zeros(bits.size)
            flat[torch.from_numpy(bits).bool()] = tensor.float()
            whole[stem] = flat.reshape(shape)
        elif not name.endswith((".mask", ".shape")):
            whole[name] = tensor.float()
    return {
        name: one.contiguous(memory_format=torch.channels_last) if one.ndim == 4 else one for name, one in whole.items()
    }


@cache
def shipped_network(name: str) -> Network:
    """A network of the package, read once.

    Raises:
        TetherError: when this installation does not have it.
    """
    return Network(shipped("detectors") / f"{name}.safetensors")
