"""OpenVINO on the CPU (extra `openvino`): base and controls are converted once and kept in a cache.

What is converted takes a signal at every point, so a control may come and go between steps. Shapes are those of the
run: another size, batch or length of prompt is compiled anew from what was converted, in seconds. Precision is the
request's dtype and nothing else: float32 is exact to rounding, bfloat16 is about as far from it as PyTorch's.

What it cannot compute (another device, float16, a denoiser or control that is not of this package, a graph that does
not convert) is computed by PyTorch, with one line about it.

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

import torch
from torch import Tensor, nn

from tether.errors import TetherError
from tether.sampling.engines.cache import Cache
from tether.sampling.engines.engine import register
from tether.sampling.engines.graph import with_sinusoids
from tether.sampling.engines.graphed import Graph, GraphEngine, MakeGraph

__all__ = ["OpenVino"]

PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}
KEPT_SHAPES = 4
"""Compiled networks that are kept of each graph, those used last: each holds a copy of the weights."""


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

    def taken(self, network: nn.Module) -> Any:
        """The network, or a float32 copy of it: what is converted is float32."""
        return network if owner_dtype(network) == torch.float32 else deepcopy(network).float()

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
    """One graph: converted or read from the cache when it is first called, compiled for each shape."""

    def __init__(
        self,
        engine: OpenVino,
        owner: nn.Module,
        variant: Any,
        names: tuple[str, ...],
        make: MakeGraph,
    ) -> None:
        self.engine, self.owner, self.variant, self.names, self.make = engine, owner, variant, names, make
        self.precision = PRECISIONS[owner_dtype(owner)]
        self.model: Any = None
        self.converted: tuple[Any, Any] | None = None
        self.points: tuple[str, ...] = ()
        self.failed = False
        self.compiled: OrderedDict[Any, Any] = OrderedDict()

    def __call__(self, inputs: list[Tensor]) -> tuple[list[Tensor], tuple[str, ...]] | None:
        inputs = [tensor.float() if tensor.is_floating_point() else tensor for tensor in inputs]
        shapes = tuple(tuple(tensor.shape) for tensor in inputs)
        if not self._is_ready(inputs, shapes):
            return None
        self.compiled.move_to_end(shapes)
        arrays = {k: tensor.detach().contiguous().numpy() for k, tensor in enumerate(inputs)}
        found = self.compiled[shapes](arrays, share_inputs=True, share_outputs=False)
        return [torch.from_numpy(found[k]) for k in range(len(found))], self.points

    def _is_ready(self, inputs: list[Tensor], shapes: tuple[tuple[int, ...], ...]) -> bool:
        """Reads the graph from the cache or converts it, and compiles it; False where that fails."""
        if self.failed or shapes in self.compiled:
            return not self.failed
        try:
            if self.model is None:
                self.model, self.points = self.engine.cache.get(
                    self.engine.core, self.owner, self._settings(inputs), lambda: self._convert(inputs)
                )
                if self.converted is not None and self.model is not self.converted[0]:
                    self.converted = None  # what was read from the cache serves, and needs no copy of PyTorch's weights
            while len(self.compiled) >= KEPT_SHAPES:
                self.compiled.popitem(last=False)
            self.compiled[shapes] = self._compile(shapes)
        except Exception as error:  # tracing and converting raise anything; PyTorch draws on
            self.failed = True
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.engine.notes.append(f"drawn by eager: a network does not convert to OpenVINO ({line[:120]})")
        return not self.failed

    def _settings(self, inputs: list[Tensor]) -> dict[str, Any]:
        config = getattr(self.owner, "config", {})
        return {
            "names": self.names,
            "kinds": [f"{tensor.dtype} {tensor.ndim}" for tensor in inputs],
            "variant": self.variant,
            "config": {name: str(value) for name, value in sorted(dict(config).items()) if not name.startswith("_")},
        }

    @torch.no_grad()
    def _convert(self, inputs: list[Tensor]) -> tuple[Any, tuple[str, ...]]:
        """The OpenVINO model of the graph in float32, and the points of its signal."""
        from openvino.frontend import FrontEndManager  # pyright: ignore[reportMissingImports]
        from openvino.frontend.pytorch.ts_decoder import (  # pyright: ignore[reportMissingImports]
            TorchScriptPythonDecoder,
        )

        graph = self.make(self.names).eval()
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
