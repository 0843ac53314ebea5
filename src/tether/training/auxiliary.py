"""Auxiliary losses: a second objective that is trained beside the diffusion loss.

    L = L_diffusion + Σ_j w_j(k) L_j          at step k; w_j is given by the config

An auxiliary loss is a plug-in: a class with `__call__(batch) -> scalar`, made with the trained control, the base and
its options. It usually registers forward hooks on the control and reads what they saw:

    class AttentionEntropy:
        def __init__(self, control, base): ...          # hooks
        def __call__(self, batch): ...                  # of the latest forward pass of that batch

A config names it by entry point (group `tether.auxiliary_losses`), by `module:name` or by `path/to/file.py:name`. This
package has "feedback" (`tether.training.feedback`).

A loss may have two things more: a method `watch(noisy, timesteps, prediction)`, which is called in the forward pass
with z_t, t and what the steered base predicts; and `uses_autoencoder = True` on its class, without which the base's
autoencoder has no weights while training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from tether.base import Base
from tether.control.control import Control
from tether.errors import TetherError
from tether.files.modules import module_of_file
from tether.training.batch import Batch
from tether.training.config import AuxiliaryLossConfig

__all__ = [
    "GROUP",
    "OWN",
    "AuxiliaryLoss",
    "Watching",
    "load_auxiliary_loss",
    "make_auxiliary_losses",
    "use_autoencoder",
]

GROUP = "tether.auxiliary_losses"
"""Entry points of this group are known by their name."""
OWN = {"feedback": "tether.training.feedback:Feedback"}
"""Name of a loss of this package -> its class."""


class AuxiliaryLoss(Protocol):
    """A further loss of a batch."""

    def __call__(self, batch: Batch) -> Tensor:
        """The loss, a float32 scalar, of the forward pass that has just been run on `batch` (on the device)."""
        ...


@runtime_checkable
class Watching(Protocol):
    """An auxiliary loss that watches the forward pass."""

    def watch(self, noisy: Tensor, timesteps: Tensor, prediction: Tensor) -> None:
        """z_t `(B, C, h, w)`, t `(B,)` and what the steered base predicts `(B, C, h, w)`, with gradients."""
        ...


def make_auxiliary_losses(
    configs: Sequence[AuxiliaryLossConfig], control: Control, base: Base
) -> dict[str, tuple[AuxiliaryLossConfig, AuxiliaryLoss]]:
    """Name -> config and loss, for each loss whose weight is not 0.

    Raises:
        TetherError: when a loss is not found, does not accept its options, or has the name of another.
    """
    made: dict[str, tuple[AuxiliaryLossConfig, AuxiliaryLoss]] = {}
    for config in configs:
        if config.weight == 0:
            continue
        name = config.loss.rpartition(":")[2]
        if name in made:
            raise TetherError(f"two auxiliary losses are named {name}: give each once")
        factory = load_auxiliary_loss(config.loss)
        try:
            made[name] = config, factory(control, base, **config.options)
        except TypeError as error:
            raise TetherError(f"auxiliary loss {config.loss} does not accept its options: {error}") from error
    return made


def use_autoencoder(configs: Sequence[AuxiliaryLossConfig]) -> bool:
    """Whether one of the losses needs the base's autoencoder.

    Raises:
        TetherError: when a loss is not found.
    """
    return any(getattr(load_auxiliary_loss(one.loss), "uses_autoencoder", False) for one in configs if one.weight)


def load_auxiliary_loss(reference: str) -> Any:
    """The class, or function, that an auxiliary loss is made with.

    Args:
        reference: a name of `OWN`, an entry point's, `module:name`, or `path/to/file.py:name`.

    Raises:
        TetherError: when there is none.
    """
    reference = OWN.get(reference, reference)
    place, colon, name = reference.rpartition(":")
    try:
        if not colon:
            found: Mapping[str, Any] = {point.name: point for point in entry_points(group=GROUP)}
            if reference not in found:
                known = ", ".join(sorted({*OWN, *found}))
                raise TetherError(
                    f"unknown auxiliary loss {reference!r} (installed: {known}): give module:name or file.py:name"
                )
            return found[reference].load()
        module = module_of_file(Path(place), "auxiliary loss") if place.endswith(".py") else import_module(place)
        return getattr(module, name)
    except (ImportError, AttributeError, OSError, SyntaxError) as error:
        raise TetherError(f"cannot load the auxiliary loss {reference}: {error}") from error
