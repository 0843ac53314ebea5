"""From noise to images: request, session, pipeline, guidance, samplers and the denoising loop.

Names are imported when they are first used, so that a request can be checked without PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether._lazy import lazy

if TYPE_CHECKING:
    from tether.sampling.guidance import Guidance, classifier_free_guidance
    from tether.sampling.loop import Step
    from tether.sampling.pipeline import Pipeline
    from tether.sampling.request import ControlRequest, Request
    from tether.sampling.samplers import SCHEDULERS, Sampler, make_scheduler
    from tether.sampling.session import Cancelled, Drawn, Session
    from tether.sampling.step import Steering, make_step

__all__ = [
    "SCHEDULERS",
    "Cancelled",
    "ControlRequest",
    "Drawn",
    "Guidance",
    "Pipeline",
    "Request",
    "Sampler",
    "Session",
    "Steering",
    "Step",
    "classifier_free_guidance",
    "make_scheduler",
    "make_step",
]

_HOMES = {
    "SCHEDULERS": ".samplers",
    "Cancelled": ".session",
    "ControlRequest": ".request",
    "Drawn": ".session",
    "Guidance": ".guidance",
    "Pipeline": ".pipeline",
    "Request": ".request",
    "Sampler": ".samplers",
    "Session": ".session",
    "Steering": ".step",
    "Step": ".loop",
    "classifier_free_guidance": ".guidance",
    "make_scheduler": ".samplers",
    "make_step": ".step",
}


__getattr__ = lazy(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
