"""DDIM (arXiv:2010.02502) that steps to the next of its timesteps, however they are spread.

diffusers' scheduler takes T // n for the distance of all timesteps. That is right for "leading" spacing, and wrong
wherever n does not divide T and the spacing is another one: z_t is then moved to a noise level that the next step does
not expect.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

__all__ = ["DDIM"]


class DDIM(DDIMScheduler):
    """diffusers' scheduler with the distance of each step taken from its timesteps.

    Attributes:
        as_diffusers: whether to step as diffusers does.
    """

    as_diffusers = False

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: Any = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """As diffusers': z_t `(B, C, h, w)` and the prediction -> z of the next timestep."""
        steps = self.num_inference_steps
        if not self.as_diffusers:
            # The scheduler computes the distance as T // steps, which this makes exact.
            self.num_inference_steps = Fraction(self.config["num_train_timesteps"], self._distance(timestep))  # type: ignore[assignment]
        try:
            return super().step(
                model_output, timestep, sample, eta, use_clipped_model_output, generator, variance_noise, return_dict
            )
        finally:
            self.num_inference_steps = steps

    def _distance(self, timestep: Any) -> int:
        """From a timestep to the next one, or past zero from the last one."""
        later = self.timesteps[self.timesteps < torch.as_tensor(timestep, device=self.timesteps.device)]
        return int(timestep) - (int(later.max()) if len(later) else -1)
