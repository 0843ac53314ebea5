"""Denoisers and controls as functions of tensors alone, which is what compilers and converters take.

    tensors_of(latents, timestep, conditioning, ...) -> {name: tensor}       in a fixed order
    DenoiserGraph(denoiser, names)(*tensors) -> prediction
    WholeGraph, ShallowGraph: the same of the two parts of `tether.base.deep`
    with_sinusoids(network, tensors) -> the same tensors, with sinusoids in place of timesteps
    ControlGraph(control, names)(*tensors) -> the tensors of the signal, in the order of `points`

A graph takes a signal at every point that it was made for, so that a control may come and go between steps: where there
is none, its tensors are zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tether.base.denoiser import DenoiserSpec, UNetDenoiser
from tether.control.architecture import with_parts
from tether.control.conditioning import Conditioning
from tether.control.control import Control
from tether.control.signal import Signal

__all__ = [
    "ControlGraph",
    "DenoiserGraph",
    "ShallowGraph",
    "WholeGraph",
    "conditioning_tensors",
    "is_odd",
    "points_for",
    "signal_tensors",
    "times",
    "with_sinusoids",
]

EXTRA = "extra."
POINT = "point."
SINUSOIDS = (("time_proj", "timestep", "time"), ("add_time_proj", f"{EXTRA}time_ids", "sizes"))
"""Modules that make sinusoids, the tensors of numbers that they are made of, and the names of tensors of sinusoids."""


def conditioning_tensors(conditioning: Conditioning) -> dict[str, Tensor]:
    """The tensors of a conditioning by name."""
    pooled = {} if conditioning.pooled is None else {"pooled": conditioning.pooled}
    extras = {EXTRA + name: tensor for name, tensor in sorted(conditioning.extras.items())}
    return {"tokens": conditioning.tokens, **pooled, **extras}


def _conditioning(tensors: Mapping[str, Tensor]) -> Conditioning:
    extras = {name.removeprefix(EXTRA): tensor for name, tensor in tensors.items() if name.startswith(EXTRA)}
    return Conditioning(tensors["tokens"], tensors.get("pooled"), extras)


def times(timestep: int | float | Tensor, latents: Tensor) -> Tensor:
    """A timestep as `(B,)` float32."""
    t = torch.as_tensor(timestep, device=latents.device, dtype=torch.float32)
    return t.reshape(-1).expand(len(latents)).contiguous()


def points_for(spec: DenoiserSpec, signal: Signal | None, before: Sequence[str] = ()) -> tuple[str, ...]:
    """The injection points of a graph that serves a signal: with one skip connection or the middle all of these, with
    one encoder block all blocks; and the points from `before`."""
    named = {name.split(".")[0] for name in (*(signal or ()), *before)}
    named |= {"skip", "middle"} if named & {"skip", "middle"} else set()
    return tuple(point.name for point in spec.points if point.name.split(".")[0] in named)


def signal_tensors(
    spec: DenoiserSpec, points: Sequence[str], signal: Signal | None, latents: Tensor, zeros: dict[Any, Tensor]
) -> dict[str, Tensor]:
    """A tensor of full size for each point of a graph.

    Args:
        spec: of the denoiser.
        points: of the graph.
        signal: may lack points, or be None.
        latents: `(B, C, h, w)`, of the batch and size.
        zeros: kept between calls by the caller.
    """
    batch, _, *size = latents.shape
    tensors = {}
    for point in (one for one in spec.points if one.name in points):
        sides = size
        for _ in range(point.scale.bit_length() - 1):
            sides = [-(-side // 2) for side in sides]  # a convolution of stride 2 rounds up
        shape = (batch, point.channels, *sides)
        given = None if signal is None else signal.get(point.name)
        if given is None:
            key = (shape, latents.dtype, latents.device)
            given = zeros.setdefault(key, latents.new_zeros(shape))
        tensors[POINT + point.name] = given.to(latents.dtype).expand(shape).contiguous()
    return tensors


def is_odd(spec: DenoiserSpec, latents: Tensor) -> bool:
    """Whether a side is not a multiple of the denoiser's largest scale: then it resizes to sizes that it looks up."""
    scale = max((point.scale for point in spec.points), default=1)
    return any(side % scale for side in latents.shape[-2:])


def with_sinusoids(network: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with what a network makes of the numbers among them first, in float32: the sinusoids of its timesteps and
    of SDXL's sizes. In bfloat16 481 is 480 or 482, whose sinusoids are others."""
    found = dict(tensors)
    for part, name, sinusoids in SINUSOIDS:
        # A network whose classes are timesteps has sinusoids of both by the same module.
        if name in found and getattr(network, part, None) and network.config.get("class_embed_type") != "timestep":
            found[sinusoids] = getattr(network, part)(found.pop(name).flatten()).float()
    return found


class _Given(nn.Module):
    """Stands where a network computes sinusoids, and gives those that came with the tensors."""

    sinusoids: Tensor | None = None

    def forward(self, *numbers: Any) -> Tensor:
        assert self.sinusoids is not None
        return self.sinusoids


class _Graph(nn.Module):
    """A network as a function of tensors, which may have sinusoids for it.

    Args:
        names: of the tensors, in order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.parts = {part: _Given() for part, _, sinusoids in SINUSOIDS if sinusoids in self.names}

    def taking(self, network: Any) -> Any:
        """A network that takes the sinusoids; it shares everything with the given one."""
        return with_parts(network, self.parts) if self.parts else network

    def named(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """The tensors by name, with numbers of the right shape where there are sinusoids of them."""
        given = dict(zip(self.names, tensors, strict=True))
        for part, name, sinusoids in SINUSOIDS:
            if part in self.parts:
                self.parts[part].sinusoids = given[sinusoids]
                # `shape`, not `len`: a traced graph serves other batches too.
                given[name] = given[sinusoids][:, 0].reshape(given["latents"].shape[0], -1)
        return given | {"timestep": given["timestep"].flatten()}


class DenoiserGraph(_Graph):
    """A denoiser's `predict` as a function of tensors.

    Args:
        denoiser: the denoiser; its network is not copied.
        names: of the tensors, in order: "latents", "timestep", those of `conditioning_tensors` and `signal_tensors`, or
            what `with_sinusoids` makes of them.
    """

    def __init__(self, denoiser: UNetDenoiser, names: Sequence[str]) -> None:
        super().__init__(names)
        self.network = self.taking(denoiser.network)
        self.denoiser = UNetDenoiser(self.network, denoiser.spec.noise, denoiser.spec.latent_factor)

    def forward(self, *tensors: Tensor) -> Any:
        given = self.named(tensors)
        points = {name.removeprefix(POINT): given[name] for name in self.names if name.startswith(POINT)}
        signal = Signal(points) if points else None
        return self.predicted(given, given["latents"], given["timestep"], _conditioning(given), signal)

    def predicted(self, given: Mapping[str, Tensor], *arguments: Any) -> Any:
        """What the graph gives.

        Args:
            given: all tensors by name.
            arguments: of `Denoiser.predict`.
        """
        return self.denoiser.predict(*arguments)


class WholeGraph(DenoiserGraph):
    """A denoiser's prediction and its deep features as a function of tensors.

    Args:
        denoiser: a `UNetDenoiser`.
        names: as of `DenoiserGraph`.
        skips: where it is split.
    """

    def __init__(self, denoiser: UNetDenoiser, names: Sequence[str], skips: int) -> None:
        super().__init__(denoiser, names)
        self.split = self.denoiser.split(skips)

    def predicted(self, given: Mapping[str, Tensor], *arguments: Any) -> Any:
        return self.split.predict_whole(*arguments)


class ShallowGraph(WholeGraph):
    """The same of its shallow part; the tensors have "deep", the deep features, too."""

    def predicted(self, given: Mapping[str, Tensor], *arguments: Any) -> Any:
        latents, timestep, conditioning, signal = arguments
        return self.split.predict_shallow(latents, timestep, conditioning, signal, given["deep"])


class ControlGraph(_Graph):
    """A control's call as a function of tensors.

    Args:
        control: the control.
        names: of the tensors, in order: "latents", "timestep", "hint" and those of `conditioning_tensors`, or what
            `with_sinusoids` makes of them.
        arguments: further arguments of the call.

    Attributes:
        points: of the signal, known after the first call.
    """

    def __init__(self, control: Control, names: Sequence[str], arguments: Mapping[str, Any]) -> None:
        super().__init__(names)
        self.control, self.arguments = self.taking(control), dict(arguments)
        self.points: tuple[str, ...] = ()

    def signal(self, *tensors: Tensor) -> Signal:
        """The control's signal."""
        given = self.named(tensors)
        return self.control(given["latents"], given["timestep"], _conditioning(given), given["hint"], **self.arguments)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        signal = self.signal(*tensors)
        self.points = tuple(signal)
        return tuple(signal.values())
