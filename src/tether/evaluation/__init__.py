"""Does an image follow its condition? The measures themselves belong to the kinds, `tether.kinds`."""

from __future__ import annotations

from tether.evaluation.fidelity import fidelity, metric_of

__all__ = ["fidelity", "metric_of"]
