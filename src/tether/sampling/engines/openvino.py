"""OpenVINO on the CPU (extra `openvino`): base and controls are converted once and kept in a cache.

What is converted takes a signal at every point, so a control may come and go between steps. Shapes are those of the
run: another size, batch or length of prompt is compiled anew from what was converted, in seconds. Precision is the
request's dtype and nothing else: float32 is exact to rounding, bfloat16 is about as far from it as PyTorch's.

What it cannot compute (another device, float16, a denoiser or control that is not of this package, a graph that does
not convert, a size that does not compile) is computed by PyTorch, with one line about it in each run.

The cache is `TETHER_CACHE`, or `tether` in `XDG_CACHE_HOME` or `~/.cache`; it takes 4 bytes a weight. Its names are
hashes of the weights, the settings, and the versions of everything that converts.
"""

from __future__ import annotations

import sys
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from tether.errors import TetherError
from tether.sampling.engines.cache import Cache
from tether.sampling.engines.engine import register
from tether.sampling.engines.graph import with_sinusoids
from tether.sampling.engines.graphed import Graph, GraphEngine, MakeGraph, first_line, sharing_copy

__all__ = ["OpenVino"]

PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}
KEPT_SHAPES = 4
"""Compiled networks that are kept of each graph, those used last: each holds a copy of the weights. Of a graph that a
run does not use, one is kept."""


def _openvino() -> Any:
    """The package, imported without its converter's command line, which reports to its makers that it was imported.

    Raises:
        TetherError: when it is not installed.
    """
    reporting = "openvino.tools.ovc"
    hidden = reporting not in sys.modules
    if hidden:
        sys.modules[reporting] = None  # type: ignore[assignment]
    try:
        import openvino  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise TetherError(
            f"engine openvino needs OpenVINO ({error}): pip install 'tether-control[openvino]', or leave --engine out"
        ) from None
    finally:
        if hidden:
            del sys.modules[reporting]
    return openvino


@cache
def _core(openvino: Any) -> Any:
    """OpenVINO's core, one for the process and as long as it.

    Its CPU plugin gives the thread that loads it an alternate signal stack. Freed by another thread, the stack would
    stay in use, and the next signal end the process, Ctrl-C too.
    """
    return openvino.Core()


@register("openvino")
class OpenVino(GraphEngine):
    """Computes with OpenVINO; what it converted and compiled is kept from run to run.

    Args:
        cache: where converted graphs are kept; by default see the module.

    Raises:
        TetherError: when OpenVINO is not installed.
    """

    name = "openvino"
    splits = True

    def __init__(self, cache: Cache | None = None) -> None:
        super().__init__()
        self.core = _core(_openvino())
        self.cache = cache or Cache("openvino")

    def graph(self, owner: nn.Module, variant: Any, names: tuple[str, ...], make: MakeGraph) -> Graph:
        return _Graph(self, owner, variant, names, make)

    def inputs(self, network: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """With sinusoids in float32, which OpenVINO would compute in bfloat16 too."""
        return with_sinusoids(network, tensors)

    def why_not(self, network: nn.Module) -> str | None:
        parameter = next(network.parameters())
        if parameter.device.type != "cpu":
            return f"engine openvino computes on the CPU, not on {parameter.device.type}"
        if parameter.dtype not in PRECISIONS:
            dtype = str(parameter.dtype).removeprefix("torch.")
            return f"engine openvino computes in float32 or bfloat16, not in {dtype}"
        return None


def owner_dtype(owner: nn.Module) -> torch.dtype:
    """The dtype of a network's first parameter."""
    return next(owner.parameters()).dtype


class _Graph:
    """One graph: converted or read from the cache when it is first called, compiled for each shape.

    A conversion that fails is not tried again, and a compilation not for the same shapes.
    """

    def __init__(
        self,
        engine: OpenVino,
        owner: nn.Module,
        variant: Any,
        names: tuple[str, ...],
        make: MakeGraph,
    ) -> None:
        self.engine, self.owner, self.variant, self.names, self.make = engine, ref(owner), variant, names, make
        self.precision = PRECISIONS[owner_dtype(owner)]
        self.model: Any = None
        self.converted: tuple[Any, Any] | None = None
        self.points: tuple[str, ...] = ()
        self.unconverted: str | None = None
        self.uncompiled: dict[Any, str] = {}
        self.compiled: OrderedDict[Any, Any] = OrderedDict()

    def __call__(self, inputs: list[Tensor]) -> tuple[list[Tensor], tuple[str, ...]] | None:
        inputs = [tensor.float() if tensor.is_floating_point() else tensor for tensor in inputs]
        shapes = tuple(tuple(tensor.shape) for tensor in inputs)
        if shapes not in self.compiled:
            why = self._why_not(inputs, shapes)
            if why is not None:
                self.engine.note(f"drawn by eager: {why}")
                return None
        self.compiled.move_to_end(shapes)
        arrays = {k: tensor.detach().contiguous().numpy() for k, tensor in enumerate(inputs)}
        found = self.compiled[shapes](arrays, share_inputs=True, share_outputs=False)
        return [torch.from_numpy(found[k]) for k in range(len(found))], self.points

    def rest(self) -> None:
        self._keep(1)

    def _keep(self, most: int) -> None:
        """Lets go of the compiled networks that were used longest ago."""
        while len(self.compiled) > most:
            self.compiled.popitem(last=False)

    def _why_not(self, inputs: list[Tensor], shapes: tuple[tuple[int, ...], ...]) -> str | None:
        """Reads the graph from the cache or converts it, and compiles it; why that fails, None where it does not."""
        if self.model is None and self.unconverted is None:
            try:
                self._open(inputs)
            except Exception as error:  # tracing and converting raise anything; PyTorch draws on
                self.unconverted = f"a network does not convert to OpenVINO ({first_line(error)})"
        if self.unconverted is None and shapes not in self.uncompiled:
            self._keep(KEPT_SHAPES - 1)
            try:
                self.compiled[shapes] = self._compile(shapes)
                return None
            except Exception as error:
                self.uncompiled[shapes] = f"OpenVINO does not compile a network at this size ({first_line(error)})"
        return self.unconverted or self.uncompiled[shapes]

    def _open(self, inputs: list[Tensor]) -> None:
        owner = self.owner()
        assert owner is not None  # whoever calls the graph holds it
        self.model, self.points = self.engine.cache.get(
            self.engine.core, owner, self._settings(owner, inputs), lambda: self._convert(owner, inputs)
        )
        if self.converted is not None and self.model is not self.converted[0]:
            self.converted = None  # what was read from the cache serves, and needs no copy of PyTorch's weights

    def _settings(self, owner: nn.Module, inputs: list[Tensor]) -> dict[str, Any]:
        config = getattr(owner, "config", {})
        return {
            "names": self.names,
            "kinds": [f"{tensor.dtype} {tensor.ndim}" for tensor in inputs],
            "variant": self.variant,
            "config": {name: str(value) for name, value in sorted(dict(config).items()) if not name.startswith("_")},
        }

    @torch.no_grad()
    def _convert(self, owner: nn.Module, inputs: list[Tensor]) -> tuple[Any, tuple[str, ...]]:
        """The OpenVINO model of the graph in float32, and the points of its signal."""
        from openvino.frontend import FrontEndManager  # pyright: ignore[reportMissingImports]
        from openvino.frontend.pytorch.ts_decoder import (  # pyright: ignore[reportMissingImports]
            TorchScriptPythonDecoder,
        )

        network = sharing_copy(owner) if owner_dtype(owner) == torch.float32 else deepcopy(owner).float()
        graph = self.make(network, self.names).eval()
        frontend = FrontEndManager().load_by_framework("pytorch")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about checks in Python that hold for every input of these shapes
            decoder = TorchScriptPythonDecoder(graph, example_input=tuple(inputs), trace_kwargs={"check_trace": False})
            model = frontend.convert(frontend.load(decoder))
        self.converted = model, decoder  # the model shares memory with the decoder's constants
        return model, getattr(graph, "points", ())

    def _compile(self, shapes: Sequence[tuple[int, ...]]) -> Any:
        model = self.model.clone()
        model.reshape({port: list(shape) for port, shape in zip(model.inputs, shapes, strict=True)})
        return self.engine.core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": self.precision,
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
            },
        )
