"""Classifier-free guidance."""

from __future__ import annotations

import torch

from tether.control import Conditioning
from tether.sampling import Guidance, classifier_free_guidance
from tether.sampling.guidance import rescaled


def test_the_scale_extrapolates_from_the_unconditional_prediction() -> None:
    unconditional, conditional = torch.randn(2, 3, 4, 8, 8)
    both = torch.cat([unconditional, conditional])
    torch.testing.assert_close(classifier_free_guidance(both, 1.0), conditional)
    torch.testing.assert_close(classifier_free_guidance(both, 0.0), unconditional)
    torch.testing.assert_close(classifier_free_guidance(both, 7.5), 7.5 * conditional - 6.5 * unconditional)


def test_the_stacked_batch_has_the_unconditional_branch_first() -> None:
    conditional, unconditional = Conditioning(torch.ones(2, 3, 4)), Conditioning(torch.zeros(2, 3, 4))
    stacked = Guidance(conditional, unconditional, 2.0).stacked()
    assert stacked.tokens.mean((1, 2)).tolist() == [0, 0, 1, 1]
    assert Guidance(conditional).stacked() is conditional


def test_a_rescaled_prediction_has_the_contrast_of_the_conditional_one() -> None:
    random = torch.Generator().manual_seed(0)
    conditional = torch.randn(2, 4, 8, 8, generator=random)
    guided = 3 * conditional + torch.randn(2, 4, 8, 8, generator=random)
    whole = rescaled(guided, conditional, 1.0)
    for ours, wanted in zip(whole, conditional, strict=True):  # arXiv:2305.08891, equation 15
        torch.testing.assert_close(ours.std(), wanted.std())
    torch.testing.assert_close(rescaled(guided, conditional, 0.7), 0.7 * whole + 0.3 * guided)
