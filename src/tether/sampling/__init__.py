"""From noise to pictures: guidance, the denoising loop, and the pipeline around them."""

from tether.sampling.guidance import classifier_free_guidance
from tether.sampling.loop import Step
from tether.sampling.pipeline import Pipeline
from tether.sampling.samplers import SCHEDULERS, make_scheduler

__all__ = ["SCHEDULERS", "Pipeline", "Step", "classifier_free_guidance", "make_scheduler"]
