"""Where a request's steps fall: at the last timestep pure noise begins, and a file says what was used."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tether.base import Base
from tether.errors import TetherError
from tether.sampling import SCHEDULERS, Request
from tether.sampling.samplers import make_scheduler
from tether.sampling.steps import scheduler_of, spacing_of

OLD = {"rules": 1}
"""Of a request that a file of an older version carries."""


def first(base: Base, **values: Any) -> float:
    return float(scheduler_of(Request(prompt="x", **values), base).timesteps[0])


def with_schedule(base: Base, **settings: Any) -> Base:
    changed = copy.copy(base)
    changed.noise_schedule = base.noise_schedule | settings
    return changed


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 2, 4, 7, 20, 50])
def test_every_count_of_steps_starts_near_the_last_timestep(tiny_base: Base, name: str, steps: int) -> None:
    assert tiny_base.noise_schedule["timestep_spacing"] == "leading"
    for spacing in ("leading", "linspace", "trailing"):
        base = with_schedule(tiny_base, timestep_spacing=spacing)
        assert first(base, scheduler=name, steps=steps) >= 850


@pytest.mark.parametrize("name", ["ddim", "dpmpp-2m", "unipc", "euler", "euler-a"])
@pytest.mark.parametrize("steps", [101, 333, 600, 999, 1000])
def test_many_steps_are_spread_also_where_they_do_not_divide_the_timesteps(
    tiny_base: Base, name: str, steps: int
) -> None:
    timesteps = scheduler_of(Request(prompt="x", scheduler=name, steps=steps), tiny_base).timesteps
    assert len(timesteps.unique()) == steps
    assert 850 <= float(timesteps[0]) < 1000


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("spacing", [None, "leading", "trailing"])
def test_zero_terminal_snr_starts_at_the_last_timestep(tiny_base: Base, name: str, spacing: str | None) -> None:
    base = with_schedule(tiny_base, rescale_betas_zero_snr=True, timestep_spacing=spacing)
    assert first(base, scheduler=name, steps=8) == 999


def test_ddim_is_not_sampled_with_linspace(tiny_base: Base) -> None:
    base = with_schedule(tiny_base, timestep_spacing="linspace")
    assert make_scheduler("ddim", base.noise_schedule).config.timestep_spacing == "trailing"
    with pytest.raises(TetherError, match="ddim does not support spacing 'linspace': choose one of leading, trailing"):
        Request(prompt="x", scheduler="ddim", spacing="linspace")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scheduler": "lcm", "spacing": "trailing"}, "lcm does not support spacing 'trailing': leave it out"),
        ({"scheduler": "ddim", "sigmas": "karras"}, "ddim does not support sigmas 'karras': leave it out"),
        ({"eta": 0.5}, "dpmpp-2m does not take eta: use ddim, or leave it out"),
        ({"scheduler": "ddim", "eta": 1.5}, "eta: input should be less than or equal to 1"),
        ({"spacing": "even"}, "spacing: input should be 'leading', 'trailing' or 'linspace'"),
    ],
)
def test_what_a_sampler_has_no_use_for_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(TetherError, match=message):
        Request(prompt="x", **values)


def test_a_spacing_that_is_asked_for_is_kept_unless_it_starts_in_the_lower_half(tiny_base: Base) -> None:
    assert first(tiny_base, scheduler="ddim", steps=3, spacing="leading") == 667
    with pytest.raises(TetherError, match=r"cannot spread 1 steps .*\(the first would be 1\): use trailing spacing"):
        first(tiny_base, scheduler="ddim", steps=1, spacing="leading")


@pytest.mark.parametrize("name", ["dpmpp-2m", "unipc", "euler"])
def test_karras_noise_levels_are_those_of_the_paper(tiny_base: Base, name: str) -> None:
    request = Request(prompt="x", scheduler=name, steps=6, sigmas="karras", spacing="trailing")
    sigmas = scheduler_of(request, tiny_base).sigmas[:6].double()
    high, low = float(sigmas[0]) ** (1 / 7), float(sigmas[-1]) ** (1 / 7)
    for k, sigma in enumerate(sigmas):  # arXiv:2206.00364, equation 5, with rho = 7
        assert float(sigma) == pytest.approx((high + k / 5 * (low - high)) ** 7, rel=1e-4)


@pytest.mark.parametrize("name", ["dpmpp-2m", "unipc", "euler"])
def test_exponential_noise_levels_are_even_in_their_logarithm(tiny_base: Base, name: str) -> None:
    request = Request(prompt="x", scheduler=name, steps=6, sigmas="exponential", spacing="trailing")
    ratios = scheduler_of(request, tiny_base).sigmas[:6].double().log().diff()
    assert ratios.max() - ratios.min() < 1e-4


def test_the_spacing_that_was_used_is_that_of_a_request(tiny_base: Base) -> None:
    assert spacing_of(Request(prompt="x"), tiny_base) == "leading"
    assert spacing_of(Request(prompt="x", steps=2), tiny_base) == "trailing"
    assert spacing_of(Request(prompt="x", scheduler="lcm"), tiny_base) is None


def test_a_request_of_an_older_file_is_run_as_it_was(tiny_base: Base) -> None:
    zero_snr = with_schedule(tiny_base, rescale_betas_zero_snr=True)
    assert first(zero_snr, steps=8, scheduler="ddim", **OLD) == 876
    assert first(tiny_base, steps=1, scheduler="ddim", **OLD) == 1
    single_file = with_schedule(tiny_base, former_timestep_spacing="leading")
    del single_file.noise_schedule["timestep_spacing"]
    assert first(single_file, steps=8, **OLD) == 889
    assert first(single_file, steps=8) == 999
    assert spacing_of(Request(prompt="x", **OLD), tiny_base) is None
