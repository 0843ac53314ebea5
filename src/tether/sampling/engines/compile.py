"""`torch.compile`: on a CPU the whole networks with frozen weights, elsewhere their blocks ("regions").

*On a CPU* what is compiled takes a signal at every point, zeros where there is none, and any size and batch, so that
nothing is compiled again when a control's window ends, when strength moves (it is applied outside), or for another
size. A batch of one is compiled once more than larger ones, and so are sides that the denoiser has to round.

*On a GPU* the blocks that most of the time is spent in, residual and transformer blocks, are compiled, each shape of
weights once; what adds signals is not, so that a control may come and go. They are compiled for any size too. The base
stays as it is: a copy of its modules shares its weights.

What it cannot compute (denoisers and controls that are not of this package, networks that are moved to a GPU when they
are needed, no C++ compiler for a CPU) is drawn by PyTorch as it is, with one line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tether.sampling.engines.eager import lay_out
from tether.sampling.engines.engine import register
from tether.sampling.engines.graph import ControlGraph
from tether.sampling.engines.graphed import Graph, GraphEngine, MakeGraph, first_line, sharing_copy

__all__ = ["Compile", "for_any_size"]

REGIONS = ("ResnetBlock2D", "BasicTransformerBlock")
"""Classes of diffusers' blocks that are compiled one by one."""
VARIANTS = 64
"""How often dynamo may compile one piece of code: a U-Net's blocks have a dozen shapes of weights."""


@register("compile")
class Compile(GraphEngine):
    """Computes with `torch.compile`; what was compiled is kept from run to run.

    Args:
        backend: of `torch.compile`; dynamo's "eager" compiles nothing and tests what is traced.
    """

    name = "compile"

    def __init__(self, backend: str = "inductor") -> None:
        super().__init__()
        self.backend = backend

    def why_not(self, network: nn.Module) -> str | None:
        if any(hasattr(module, "_hf_hook") for module in network.modules()):
            return "engine compile does not move networks when they are needed"
        return None

    def graph(self, owner: nn.Module, variant: Any, names: tuple[str, ...], make: MakeGraph) -> Graph:
        if next(owner.parameters()).device.type != "cpu":
            return _Compiled(self, _Named(make(self.regional(owner), names)))
        named = _Named(make(sharing_copy(owner), names))
        options: Any = {"freezing": True} if self.backend == "inductor" else None
        return _Compiled(self, torch.compile(named, **self._how(), options=options))

    def regional(self, network: nn.Module) -> Any:
        """A copy of a network whose blocks are compiled; it shares the weights."""
        lay_out(network)
        copy = sharing_copy(network)
        for module in copy.modules():
            if type(module).__name__ in REGIONS:
                module.compile(**self._how())
        return copy

    def _how(self) -> dict[str, Any]:
        return {"backend": self.backend, "dynamic": True, "fullgraph": True}


@contextmanager
def for_any_size() -> Iterator[None]:
    """Inside, sizes that are equal by chance, as those of a square picture, are not taken to be always so."""
    from torch._dynamo import config
    from torch.fx.experimental import _config as shapes

    with config.patch(recompile_limit=VARIANTS), shapes.patch(use_duck_shape=False):  # type: ignore[attr-defined]
        yield


class _Named(nn.Module):
    """A graph whose outputs have names: the points of a control's signal, "" for a prediction."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, *tensors: Tensor) -> dict[str, Tensor]:
        if isinstance(self.graph, ControlGraph):
            return dict(self.graph.signal(*tensors))
        return {"": self.graph(*tensors)}


class _Compiled:
    """A network, compiled when it is first called; after a failure it is not tried again with these shapes."""

    def __init__(self, engine: Compile, call: Callable[..., dict[str, Tensor]]) -> None:
        self.engine, self.call = engine, call
        self.failed: dict[Any, str] = {}

    def __call__(self, inputs: list[Tensor], /) -> tuple[list[Tensor], tuple[str, ...]] | None:
        shapes = tuple(tensor.shape for tensor in inputs)
        if shapes not in self.failed:
            try:
                with for_any_size():
                    found = self.call(*inputs)
                return list(found.values()), tuple(found)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # tracing and compiling raise anything; PyTorch draws on
                self.failed[shapes] = f"drawn by eager: a network does not compile ({first_line(error)})"
        self.engine.note(self.failed[shapes])
        return None

    def rest(self) -> None:
        """It is compiled for any size."""
