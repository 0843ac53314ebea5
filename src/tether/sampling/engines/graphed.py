"""What engines share that compute networks as graphs of tensors: the denoiser and the controls around them.

An engine of this kind says what it cannot compute, and makes graphs; what fails once is drawn by PyTorch.

Graphs are kept as long as their network is: for the next run, also where others come between. A graph therefore does
not hold its network, but a copy of the modules that shares the weights (`sharing_copy`), or what was converted.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from tether.base.denoiser import Denoiser, UNetDenoiser
from tether.control.conditioning import Conditioning
from tether.control.control import Control
from tether.control.controlnet import ControlNet
from tether.control.signal import Signal
from tether.sampling.engines.cache import weights_mark
from tether.sampling.engines.engine import Engine
from tether.sampling.engines.graph import (
    ControlGraph,
    DenoiserGraph,
    ShallowGraph,
    WholeGraph,
    conditioning_tensors,
    is_odd,
    points_for,
    signal_tensors,
    times,
)

__all__ = ["Graph", "GraphEngine", "MakeGraph", "first_line", "sharing_copy"]

MakeGraph = Callable[[Any, Sequence[str]], nn.Module]
"""(a copy of a network, names of tensors) -> a `ControlGraph` or `DenoiserGraph` that takes them in this order. It does
not hold the network itself."""


class Graph(Protocol):
    """One network as an engine computes it: tensors -> its outputs and the points of its signal; None if it fails.

    It does not hold the network.
    """

    def __call__(self, inputs: list[Tensor], /) -> tuple[list[Tensor], tuple[str, ...]] | None: ...

    def rest(self) -> None:
        """Keeps what it was last called with alone: a run without its network begins."""


class GraphEngine(Engine):
    """Computes denoisers and controls of this package as graphs, kept from run to run; others by PyTorch.

    Attributes:
        name: under which it is registered.
    """

    name: str

    def __init__(self) -> None:
        super().__init__()
        self._graphs: WeakKeyDictionary[nn.Module, tuple[int, dict[Any, Graph]]] = WeakKeyDictionary()

    @abstractmethod
    def why_not(self, network: nn.Module) -> str | None:
        """Why a network is not computed here, for people; None if it is."""

    @abstractmethod
    def graph(self, owner: nn.Module, variant: Any, names: tuple[str, ...], make: MakeGraph) -> Graph:
        """A graph.

        Args:
            owner: the network whose weights it has.
            variant: what tells graphs of the network with the same inputs apart.
            names: of its inputs.
            make: makes what is to be compiled or converted.
        """

    def note(self, line: str) -> None:
        """Adds a line to the notes of this run, once."""
        if line not in self.notes:
            self.notes.append(line)

    def inputs(self, network: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inputs of a graph of a network, made of those of the network."""
        return tensors

    def prepare(self, denoiser: Denoiser, controls: Sequence[Control]) -> tuple[Denoiser, Sequence[Control]]:
        used = {id(network) for network in (denoiser.network, *controls)}
        for owner, (_, graphs) in self._graphs.items():
            for graph in graphs.values() if id(owner) not in used else ():
                graph.rest()
        prepared = [self._control(control) for control in controls]
        why = self._why_not(denoiser, UNetDenoiser, denoiser.network)
        if why is not None:
            self.notes.append(f"the base is drawn by eager: {why}")
            return denoiser, prepared
        points = points_for(denoiser.spec, None, [name for control in controls for name in control.points])
        assert isinstance(denoiser, UNetDenoiser)
        return GraphedDenoiser(denoiser, self, points), prepared

    def _control(self, control: Control) -> Any:
        why = self._why_not(control, ControlNet, control)
        if why is None:
            return GraphedControl(control, self)
        self.notes.append(f"control {control.name} is drawn by eager: {why}")
        return control

    def _why_not(self, given: Any, known: type, network: nn.Module) -> str | None:
        if type(given) is not known:
            return f"engine {self.name} does not know {type(given).__name__}"
        return self.why_not(network)

    def compute(
        self, owner: nn.Module, variant: Any, tensors: dict[str, Tensor], make: MakeGraph
    ) -> tuple[list[Tensor], tuple[str, ...]] | None:
        """The outputs of a graph and the points of its signal; None where it is drawn by PyTorch. See `graph`."""
        tensors = self.inputs(owner, tensors)
        names = tuple(tensors)
        mark = weights_mark(owner)
        if self._graphs.get(owner, (None, {}))[0] != mark:
            self._graphs[owner] = mark, {}
        graphs = self._graphs[owner][1]
        if (variant, names) not in graphs:
            graphs[variant, names] = self.graph(owner, variant, names, make)
        return graphs[variant, names](list(tensors.values()))


def first_line(error: Exception) -> str:
    """What an error says, for a note."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]


def sharing_copy(network: nn.Module) -> Any:
    """A copy of a network's modules that shares its weights."""
    return deepcopy(network, {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())})


class GraphedDenoiser(Denoiser):
    """A denoiser as a graph, with a signal at `points` or none."""

    def __init__(self, inner: UNetDenoiser, engine: GraphEngine, points: tuple[str, ...]) -> None:
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
        found = self.compute("denoiser", DenoiserGraph, self.tensors(latents, timestep, conditioning, signal))
        if found is None:
            return self.inner.predict(latents, timestep, conditioning, signal)
        return found[0].to(latents.dtype)

    def split(self, skips: int) -> GraphedSplit:
        """The denoiser in two parts, each a graph; see `tether.base.deep`."""
        return GraphedSplit(self, skips)

    def tensors(
        self, latents: Tensor, timestep: int | float | Tensor, conditioning: Conditioning, signal: Signal | None
    ) -> dict[str, Tensor]:
        """The inputs of a graph, with a signal at all points that were in use so far; arguments as of `predict`."""
        self._points = points_for(self.spec, signal, self._points)
        return self.tensors_at(self._points, latents, timestep, conditioning, signal)

    def tensors_at(
        self,
        points: Sequence[str],
        latents: Tensor,
        timestep: int | float | Tensor,
        conditioning: Conditioning,
        signal: Signal | None,
    ) -> dict[str, Tensor]:
        """The inputs of a graph with a signal at `points`."""
        tensors = {"latents": latents, "timestep": times(timestep, latents), **conditioning_tensors(conditioning)}
        return tensors | signal_tensors(self.spec, points, signal, latents, self._zeros)

    def compute(self, what: Any, graph: Any, tensors: dict[str, Tensor], *arguments: Any) -> list[Tensor] | None:
        """The outputs of a graph of the network; None where PyTorch computes it.

        Args:
            what: tells it apart from other graphs of the network.
            graph: its class: (denoiser, names, *arguments) -> module.
            tensors: inputs, "latents" among them.
            arguments: of the class.
        """
        spec = self.spec

        def make(network: Any, names: Sequence[str]) -> Any:
            return graph(UNetDenoiser(network, spec.noise, spec.latent_factor), names, *arguments)

        variant = ("odd" if is_odd(spec, tensors["latents"]) else "even", what)
        found = self.engine.compute(self.network, variant, tensors, make)
        return None if found is None else found[0]


class GraphedSplit:
    """A `SplitDenoiser` as two graphs; where one fails, by PyTorch."""

    def __init__(self, denoiser: GraphedDenoiser, skips: int) -> None:
        self.denoiser, self.skips = denoiser, skips
        self.inner = denoiser.inner.split(skips)
        self.points = tuple(f"skip.{k}" for k in range(skips))

    def predict_whole(
        self, latents: Tensor, timestep: Tensor, conditioning: Conditioning, signal: Signal | None
    ) -> tuple[Tensor, Tensor]:
        tensors = self.denoiser.tensors(latents, timestep, conditioning, signal)
        found = self.denoiser.compute(("whole", self.skips), WholeGraph, tensors, self.skips)
        if found is None:
            return self.inner.predict_whole(latents, timestep, conditioning, signal)
        prediction, deep = (tensor.to(latents.dtype) for tensor in found)
        return prediction, deep

    def predict_shallow(
        self, latents: Tensor, timestep: Tensor, conditioning: Conditioning, signal: Signal | None, deep: Tensor
    ) -> Tensor:
        tensors = self.denoiser.tensors_at(self.points, latents, timestep, conditioning, signal) | {"deep": deep}
        found = self.denoiser.compute(("shallow", self.skips), ShallowGraph, tensors, self.skips)
        if found is None:
            return self.inner.predict_shallow(latents, timestep, conditioning, signal, deep)
        return found[0].to(latents.dtype)


class GraphedControl:
    """A control as a graph; called as a `Control` is.

    Args:
        inner: the control.
        engine: that computes it.
        skips: of a graph of its first skip connections alone, how many.
    """

    def __init__(self, inner: Control, engine: GraphEngine, skips: int | None = None) -> None:
        self.inner, self.engine, self.skips = inner, engine, skips

    def shallow(self, skips: int) -> GraphedControl:
        """See `Control.shallow`."""
        return GraphedControl(self.inner, self.engine, skips)

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
        skips = self.skips

        def part(control: Control) -> Any:
            """What of it is computed."""
            return control if skips is None else control.shallow(skips)

        def make(control: Control, names: Sequence[str]) -> ControlGraph:
            return ControlGraph(part(control), names, arguments)

        variant = (*sorted(arguments.items()), *([] if skips is None else [("shallow", skips)]))
        found = self.engine.compute(self.inner, variant, tensors, make)
        if found is None:
            return part(self.inner)(latents, timestep, conditioning, hint, **arguments)
        outputs, points = found
        return Signal({point: tensor.to(latents.dtype) for point, tensor in zip(points, outputs, strict=True)})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)
