"""From noise to images: request, session, pipeline, guidance, samplers and the denoising loop."""

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
