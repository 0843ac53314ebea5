"""How well controls are followed: `tether evaluate`. The measures themselves belong to the kinds, `tether.kinds`.

Names are imported when they are first used: `fidelity` needs neither PyTorch nor the judge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether._lazy import lazy
from tether.evaluation.fidelity import fidelity, metric_of

if TYPE_CHECKING:
    from tether.evaluation.cases import Case, held_out_cases, open_held_out
    from tether.evaluation.drawing import Arm, Artist, Steering
    from tether.evaluation.run import Evaluation, evaluate

__all__ = [
    "Arm",
    "Artist",
    "Case",
    "Evaluation",
    "Steering",
    "evaluate",
    "fidelity",
    "held_out_cases",
    "metric_of",
    "open_held_out",
]

_HOMES = {
    "Arm": ".drawing",
    "Artist": ".drawing",
    "Case": ".cases",
    "Evaluation": ".run",
    "Steering": ".drawing",
    "evaluate": ".run",
    "held_out_cases": ".cases",
    "open_held_out": ".cases",
}


__getattr__ = lazy(__name__, _HOMES)
