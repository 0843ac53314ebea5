"""A call of the pipeline, as people write it, -> requests.

Names and forms that diffusers' pipelines take are served where they mean one thing here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

import torch

from tether.control import Injection
from tether.errors import TetherError
from tether.sampling.inputs import Map, as_image, as_maps, check_maps, is_image
from tether.sampling.request import MAX_COUNT, Request

__all__ = ["Call", "read_call"]

_NAMES = {
    "strength": "denoising_strength",
    "fit_rule": "fit",
    "num_inference_steps": "steps",
    "num_images_per_prompt": "count",
    "mask_image": "mask",
    "control_image": "conditions",
    "generator": "seed",
    "output_type": "output",
}
"""Older names and those of diffusers -> the name here. `image`, `height`, `width` and what is an `Injection` here are
read beside it."""
_INJECTIONS = {"controlnet_conditioning_scale": "strength", "control_guidance_start": 0, "control_guidance_end": 1}
_DEFAULTS: dict[str, Any] = {name: field.default for name, field in Request.model_fields.items()} | {
    "conditions": (),
    "injections": None,
    "output": "pil",
}
_OUTPUTS = {"pil": "pil", "latents": "latents", "latent": "latents"}


@dataclass(frozen=True)
class Call:
    """One batch of a call.

    Attributes:
        request: everything but the controls.
        conditions: for each control one map, or one an image.
        injections: one a control.
        latents: whether latents are wanted, not images.
    """

    request: Request
    conditions: list[list[Map]]
    injections: list[Injection] | None
    latents: bool


def read_call(values: Mapping[str, Any], others: Mapping[str, Any], controls: int) -> list[Call]:
    """The batches of a call: one, or one a prompt.

    Args:
        values: the arguments under the names of the pipeline.
        others: arguments under other names.
        controls: how many controls the pipeline has.

    Raises:
        TetherError: for what cannot be read, in one line.
    """
    given = dict(values) | _renamed(values, others, controls)
    output = given.pop("output")
    if output not in _OUTPUTS:
        raise TetherError(f"output is {output!r}: expected pil or latents")
    conditions, injections = given.pop("conditions"), _injections(given.pop("injections"), others, controls)
    prompts = given.pop("prompt")
    prompts = list(prompts) if isinstance(prompts, (list, tuple)) else [prompts]
    negatives = given.pop("negative_prompt")
    negatives = list(negatives) if isinstance(negatives, (list, tuple)) else [negatives]
    if not prompts or len(negatives) not in (1, len(prompts)):
        raise TetherError(f"{len(prompts)} prompts with {len(negatives)} negative prompts: give one a prompt, or one")
    given |= {
        name: _DEFAULTS[name] for name in ("guidance_scale", "scheduler", "steps", "count") if given[name] is None
    }
    given["size"] = _size(given["size"])
    given |= {name: as_image(given[name], name) for name in ("init", "mask") if given[name] is not None}
    seeds = _seeds(given.pop("seed"), given.pop("count"), len(prompts))
    maps = _maps(conditions, controls, sum(len(one) for one in seeds))
    calls, done = [], 0
    for k, (prompt, own) in enumerate(zip(prompts, seeds, strict=True)):
        request = Request(
            prompt=prompt,
            negative_prompt=negatives[k % len(negatives)] or "",
            seed=own[0] if own == list(range(own[0], own[0] + len(own))) else own,
            count=len(own),
            **given,
        )
        span = [one if len(one) == 1 else one[done : done + len(own)] for one in maps]
        calls.append(Call(request, span, injections, _OUTPUTS[output] == "latents"))
        done += len(own)
    return calls


def _renamed(values: Mapping[str, Any], others: Mapping[str, Any], controls: int) -> dict[str, Any]:
    """Arguments under other names, under those here."""
    others = {name: value for name, value in others.items() if name not in _INJECTIONS}
    if "height" in others or "width" in others:
        sides = others.pop("width", None), others.pop("height", None)
        if None in sides:
            raise TetherError("give width and height, or size")
        others["size"] = sides
    if "image" in others:
        if not controls:
            raise TetherError("image without a control: give init=... to start from an image (image-to-image)")
        others["conditions"] = others.pop("image")
    found: dict[str, Any] = {}
    for name, value in others.items():
        ours = _NAMES.get(name, name)
        if ours not in values:
            close = get_close_matches(name, [*values, *_NAMES], n=1)
            raise TetherError(f"unknown argument {name!r}" + (f": did you mean {close[0]}?" if close else ""))
        if ours in found or not _is_default(values[ours], _DEFAULTS[ours]):
            raise TetherError(f"{name} and {ours} are the same: give one of them")
        found[ours] = value
    return found


def _is_default(value: Any, default: Any) -> bool:
    return value is default or (isinstance(value, (str, int, float, tuple)) and value == default)


def _size(size: Any) -> Any:
    """One number is a square; "WIDTHxHEIGHT" is read."""
    if isinstance(size, Integral):
        return (int(size), int(size))
    if isinstance(size, str):
        width, cross, height = size.lower().partition("x")
        if not (width.isdigit() and height.isdigit() == bool(cross)):
            raise TetherError(f"size is {size!r}: expected (width, height), such as (512, 768)")
        return (int(width), int(height or width))
    return size if size is None else tuple(size) if isinstance(size, Sequence) else size


def _seeds(seed: Any, count: Any, prompts: int) -> list[list[int]]:
    """For each prompt the seeds of its images: seed, seed + 1, ..., or those that are listed."""
    if isinstance(seed, torch.Generator):
        seed = _seed_of(seed)
    if isinstance(seed, Integral):
        # `Request` refuses the numbers themselves, of which there must be one.
        if not isinstance(count, Integral) or not 1 <= int(count) <= MAX_COUNT:
            raise TetherError(f"count is {count!r}: expected a whole number from 1 to {MAX_COUNT}")
        return [[int(seed) + k * int(count) + j for j in range(int(count))] for k in range(prompts)]
    if isinstance(seed, (str, bytes)) or not hasattr(seed, "__iter__"):
        raise TetherError(f"seed is {seed!r}: expected a whole number, or one an image")
    seeds = [_seed_of(one) if isinstance(one, torch.Generator) else one for one in seed]
    if not seeds or not all(isinstance(one, Integral) for one in seeds) or len(seeds) % prompts:
        raise TetherError(f"seed has {len(seeds)} values for {prompts} prompts: expected a whole number for each image")
    each = len(seeds) // prompts
    if count not in (1, each):
        raise TetherError(f"count is {count!r}, and seed has {each} values for each prompt: leave count out")
    return [[int(one) for one in seeds[k * each : (k + 1) * each]] for k in range(prompts)]


def _seed_of(generator: torch.Generator) -> int:
    """The seed of a generator that has not been used."""
    seed = generator.initial_seed()
    if generator.device.type != "cpu" or not torch.equal(
        torch.Generator().manual_seed(seed).get_state(), generator.get_state()
    ):
        raise TetherError("seed is a generator that was used, or not of the CPU: give its seed, a whole number")
    return seed


def _maps(conditions: Any, controls: int, images: int) -> list[list[Map]]:
    """For each control its maps. A list for one control is a map an image if there are as many as images."""
    listed = [conditions] if is_image(conditions) else list(conditions) if conditions is not None else []
    if controls == 1 and len(listed) == images > 1:
        listed = [listed]
    maps = [as_maps(one, "condition" if len(listed) == 1 else f"condition {k + 1}") for k, one in enumerate(listed)]
    check_maps(maps, images)
    return maps


def _injections(given: Any, others: Mapping[str, Any], controls: int) -> list[Injection] | None:
    """One a control; from a single one, from strengths (numbers or schedules), or from diffusers' arguments."""
    theirs = {name: others[name] for name in _INJECTIONS if name in others}
    if not theirs:
        if given is None:
            return None
        listed = [given] if isinstance(given, (Injection, Real, str)) else list(given)
        return [one if isinstance(one, Injection) else Injection(_strength(one)) for one in listed]
    if given is not None:
        raise TetherError(f"{next(iter(theirs))} and injections are the same: give one of them")
    made = []
    for k in range(controls):
        start, end, strength = 0.0, 1.0, 1.0
        for name, value in theirs.items():
            if isinstance(value, (list, tuple)) and len(value) != controls:
                raise TetherError(f"{name} has {len(value)} values for {controls} controls")
            one = value[k] if isinstance(value, (list, tuple)) else value
            strength = one if name == "controlnet_conditioning_scale" else strength
            start = one if name == "control_guidance_start" else start
            end = one if name == "control_guidance_end" else end
        made.append(Injection(strength, window=(start, end)))
    return made


def _strength(value: Any) -> float | str:
    return value if isinstance(value, str) else float(value)
