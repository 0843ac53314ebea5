"""Which run a checkpoint belongs to: what must stay the same when the run is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tether.errors import TetherError
from tether.training.config import TrainConfig

__all__ = ["RunTerms"]

_ADAFACTOR = "adafactor_steps"  # "absolute"; runs of earlier versions, whose steps were relative, have no such entry


@dataclass(frozen=True)
class RunTerms:
    """The terms of a run.

    Attributes:
        config: its settings.
        processes: how many there are.
        identity: "base" and "data" -> a hash, so that others of the same name are noticed.
    """

    config: TrainConfig
    processes: int
    identity: Mapping[str, str] = field(default_factory=dict)

    @property
    def global_batch(self) -> int:
        """Samples per step of all processes together, before the batch is raised."""
        return self.config.samples_a_step * self.processes

    def to_json(self) -> dict[str, Any]:
        """As they are in a checkpoint's `state.json`."""
        return {
            "global_batch": self.global_batch,
            "identity": dict(self.identity),
            "settings": self.config.model_dump(mode="json"),
            **({_ADAFACTOR: "absolute"} if self.config.optimizer == "adafactor" else {}),
        }

    def check_continues(self, found: Mapping[str, Any]) -> None:
        """Checks that a checkpoint with these terms is of this run.

        Raises:
            TetherError: when it has other settings, another base, other data, or another number of samples per step, or
                is of an earlier version whose optimizer took other steps.
        """
        out, batch = self.config.out, found["global_batch"]
        self.config.check_continues(TrainConfig.of(found["settings"]))
        if self.config.optimizer == "adafactor" and found.get(_ADAFACTOR) != "absolute":
            raise TetherError(
                f"{out} holds a run of an earlier version, whose adafactor hardly moved weights that begin at 0: begin "
                "another run, in another folder"
            )
        for what, mine in self.identity.items():
            if found.get("identity", {}).get(what, mine) != mine:
                raise TetherError(f"{out} holds a run with another {what} of the same name: use another folder")
        if self.global_batch != batch:
            raise TetherError(
                f"{out} holds a run with {batch} samples per step, these settings make {self.global_batch}: set "
                f"batch_size and gradient_accumulation so that {self.processes} processes make {batch}"
            )
