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
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from tether.base.denoiser import Denoiser, UNetDenoiser
from tether.control.conditioning import Conditioning
from tether.control.control import Control
from tether.control.controlnet import ControlNet
from tether.control.signal import Signal
from tether.errors import TetherError
from tether.sampling.engines.cache import Cache, weights_mark
from tether.sampling.engines.engine import Engine, register
from tether.sampling.engines.graph import (
    ControlGraph,
    DenoiserGraph,
    conditioning_tensors,
    is_odd,
    points_for,
    signal_tensors,
    times,
)

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


@register("openvino")
class OpenVino(Engine):
    """Computes with OpenVINO; what it converted and compiled is kept from run to run.

    Args:
        cache: where converted graphs are kept; by default see the module.

    Raises:
        TetherError: when OpenVINO is not installed.
    """

    def __init__(self, cache: Cache | None = None) -> None:
        super().__init__()
        self.core = _openvino().Core()
        self.cache = cache or Cache("openvino")
        self._graphs: OrderedDict[Any, _Graph] = OrderedDict()

    def prepare(self, denoiser: Denoiser, controls: Sequence[Control]) -> tuple[Denoiser, Sequence[Control]]:
        self._forget(denoiser, controls)
        prepared = [self._control(control) for control in controls]
        why = _why_not(denoiser, UNetDenoiser, denoiser.network)
        if why is not None:
            self.notes.append(f"the base is drawn by eager: {why}")
            return denoiser, prepared
        points = points_for(denoiser.spec, None, [name for control in controls for name in control.points])
        return _OpenVinoDenoiser(denoiser, self, points), prepared

    def _control(self, control: Control) -> Any:
        why = _why_not(control, ControlNet, control)
        if why is None:
            return _OpenVinoControl(control, self)
        self.notes.append(f"control {control.name} is drawn by eager: {why}")
        return control

    def _forget(self, denoiser: Denoiser, controls: Sequence[Control]) -> None:
        """Lets go of the graphs of other networks, and of other weights."""
        kept = {(id(network), weights_mark(network)) for network in (denoiser.network, *controls)}
        for key in [key for key in self._graphs if (key[0], key[-1]) not in kept]:
            del self._graphs[key]

    def compute(
        self, owner: nn.Module, variant: Any, tensors: Mapping[str, Tensor], make: Callable[[Sequence[str]], nn.Module]
    ) -> tuple[list[Tensor], Any] | None:
        """The outputs of a graph and what it was made with (its points); None where it does not convert.

        Args:
            owner: the network whose weights it has.
            variant: what tells graphs of the network with the same inputs apart.
            tensors: its inputs by name.
            make: names -> the graph, to be converted.
        """
        key = (id(owner), variant, tuple(tensors), weights_mark(owner))
        graph = self._graphs.get(key)
        if graph is None:
            graph = self._graphs[key] = _Graph(self, owner, variant, tuple(tensors), make)
        return graph(list(tensors.values()))


def owner_dtype(owner: nn.Module) -> torch.dtype:
    """The dtype of a network's first parameter."""
    return next(owner.parameters()).dtype


def _why_not(given: Any, known: type, network: nn.Module) -> str | None:
    """Why something is not computed here; None if it is."""
    parameter = next(network.parameters())
    if type(given) is not known:
        return f"engine openvino does not know {type(given).__name__}"
    if parameter.device.type != "cpu":
        return f"engine openvino computes on the CPU, not on {parameter.device.type}"
    if parameter.dtype not in PRECISIONS:
        return f"engine openvino computes in float32 or bfloat16, not in {str(parameter.dtype).removeprefix('torch.')}"
    return None


class _Graph:
    """One graph: converted or read from the cache when it is first called, compiled for each shape."""

    def __init__(
        self,
        engine: OpenVino,
        owner: nn.Module,
        variant: Any,
        names: tuple[str, ...],
        make: Callable[[Sequence[str]], nn.Module],
    ) -> None:
        self.engine, self.owner, self.variant, self.names, self.make = engine, owner, variant, names, make
        self.precision = PRECISIONS[owner_dtype(owner)]
        self.model: Any = None
        self.decoder: Any = None
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
            # Kept, because the model shares memory with its constants.
            self.decoder = TorchScriptPythonDecoder(
                graph, example_input=tuple(inputs), trace_kwargs={"check_trace": False}
            )
            model = frontend.convert(frontend.load(self.decoder))
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


class _OpenVinoDenoiser(Denoiser):
    """A denoiser as OpenVINO computes it, with a signal at `points` or none."""

    def __init__(self, inner: Denoiser, engine: OpenVino, points: tuple[str, ...]) -> None:
        self.inner, self.engine = inner, engine
        self.network, self.spec = inner.network, inner.spec
        self._points = points
        self._zeros: dict[Any, Tensor] = {}

    def predict(
        self,
        latents: Tensor,
        timestep: int | float | Tensor,
        conditioning: Conditioning,
        signal: Signal | None = None,
    ) -> Tensor:
        for name in signal or ():
            if name not in {point.name for point in self.spec.points}:
                return self.inner.predict(latents, timestep, conditioning, signal)  # tells what is wrong
        self._points = points_for(self.spec, signal, self._points)
        tensors = {"latents": latents, "timestep": times(timestep, latents), **conditioning_tensors(conditioning)}
        tensors |= signal_tensors(self.spec, self._points, signal, latents, self._zeros)
        found = self.engine.compute(
            self.network,
            ("odd" if is_odd(self.spec, latents) else "even", "denoiser"),
            tensors,
            lambda names: DenoiserGraph(_float_denoiser(self.inner), names),
        )
        if found is None:
            return self.inner.predict(latents, timestep, conditioning, signal)
        return found[0][0].to(latents.dtype)


def _float_denoiser(denoiser: Denoiser) -> Denoiser:
    """The denoiser, or a float32 copy of it: what is converted is float32."""
    network: Any = _float(denoiser.network)
    return UNetDenoiser(network, denoiser.spec.noise, denoiser.spec.latent_factor)


def _float(network: nn.Module) -> Any:
    return network if owner_dtype(network) == torch.float32 else deepcopy(network).float()


class _OpenVinoControl:
    """A control as OpenVINO computes it; called as a `Control` is."""

    def __init__(self, inner: Control, engine: OpenVino) -> None:
        self.inner, self.engine = inner, engine

    def __call__(
        self,
        latents: Tensor,
        timestep: int | float | Tensor,
        conditioning: Conditioning,
        hint: Tensor,
        **arguments: Any,
    ) -> Signal:
        tensors = {"latents": latents, "timestep": times(timestep, latents), "hint": hint}
        tensors |= conditioning_tensors(conditioning)
        found = self.engine.compute(
            self.inner,
            tuple(sorted(arguments.items())),
            tensors,
            lambda names: ControlGraph(_float(self.inner), names, arguments),
        )
        if found is None:
            return self.inner(latents, timestep, conditioning, hint, **arguments)
        outputs, points = found
        return Signal({point: tensor.to(latents.dtype) for point, tensor in zip(points, outputs, strict=True)})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)
