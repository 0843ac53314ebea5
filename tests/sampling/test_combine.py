"""Several signals as one: their sum, or no longer than the longest of them."""

from __future__ import annotations

import pytest
import torch

from tether.control import Injection, Signal
from tether.sampling import Steering, make_step
from tether.sampling.combine import combined

from .fakes import GUIDED, TIMESTEPS, FakeControl, FakeDenoiser, latents_of, random_hint


def random_signal(seed: int, scale: float = 1.0) -> Signal:
    generator = torch.Generator().manual_seed(seed)
    sizes = {"skip.0": (2, 4, 8, 8), "skip.1": (2, 6, 4, 4), "tokens": (2, 50, 8)}
    return Signal({point: scale * torch.randn(size, generator=generator) for point, size in sizes.items()})


def lengths(signal: Signal) -> dict[str, torch.Tensor]:
    return {point: tensor.norm(dim=1 if tensor.ndim == 4 else -1) for point, tensor in signal.items()}


def test_the_sum_is_the_sum() -> None:
    one, other = random_signal(0), random_signal(1)
    for point, tensor in combined([one, other]).items():
        assert torch.equal(tensor, one[point] + other[point])


def test_limited_is_at_no_place_longer_than_the_longest_and_keeps_the_direction_of_the_sum() -> None:
    signals = [random_signal(0), random_signal(1, 0.5), random_signal(2, 1.5)]
    total, limited = combined(signals), combined(signals, "limited")
    each = [lengths(one) for one in signals]
    for point, length in lengths(limited).items():
        longest = torch.stack([one[point] for one in each]).amax(0)
        assert (length <= longest * 1.0001).all()
        shorter = lengths(total)[point] <= longest
        assert 0 < shorter.sum() < shorter.numel()
        channels = 1 if limited[point].ndim == 4 else -1
        cosine = torch.cosine_similarity(limited[point], total[point], dim=channels)
        torch.testing.assert_close(cosine, torch.ones_like(cosine))
        torch.testing.assert_close(length[shorter], lengths(total)[point][shorter])


@pytest.mark.parametrize("times", [2, 4])
def test_a_signal_given_several_times_is_limited_to_itself(times: int) -> None:
    one = random_signal(0)
    for point, tensor in combined([one] * times, "limited").items():
        torch.testing.assert_close(tensor, one[point])


def test_signals_in_different_places_and_single_ones_are_not_changed() -> None:
    one, left = random_signal(0), torch.zeros(2, 1, 8, 8)
    left[..., :4] = 1
    a, b = Signal({"skip.0": one["skip.0"] * left}), Signal({"skip.0": random_signal(1)["skip.0"] * (1 - left)})
    torch.testing.assert_close(combined([a, b], "limited")["skip.0"], a["skip.0"] + b["skip.0"])
    assert torch.equal(combined([a], "limited")["skip.0"], a["skip.0"])


def test_signals_of_zero_and_opposite_signals_are_finite() -> None:
    one = random_signal(0)
    for others in ([one, one.scaled(-1)], [one.scaled(0), one.scaled(0)]):
        assert all((tensor == 0).all() for tensor in combined(others, "limited").values())


def test_half_precision_does_not_overflow() -> None:
    one = Signal({"skip.0": torch.full((1, 512, 2, 2), 3e4, dtype=torch.float16)})
    assert torch.equal(combined([one], "limited")["skip.0"], one["skip.0"])
    two = Signal({"skip.0": torch.full((1, 512, 2, 2), 2e4, dtype=torch.float16)})
    assert combined([two, two], "limited")["skip.0"].isfinite().all()


@pytest.mark.parametrize("pair", [("both", "both"), ("both", "conditional"), ("conditional", "conditional")])
def test_the_same_control_twice_steers_as_once_on_either_branch(pair: tuple[str, str]) -> None:
    hint = random_hint()

    def seen(*sides: str, combine: str) -> Signal:
        denoiser = FakeDenoiser()
        steering = [Steering(FakeControl(), hint, Injection(sides=one)) for one in sides]  # type: ignore[arg-type]
        make_step(denoiser, steering, GUIDED, 10, combine=combine)(latents_of(), TIMESTEPS, 0)  # type: ignore[arg-type]
        return denoiser.signal

    once = seen("both" if "both" in pair else "conditional", combine="sum")
    twice = seen(*pair, combine="limited")
    for point in once:
        torch.testing.assert_close(twice[point], once[point])
