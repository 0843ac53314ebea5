"""The settings of an image as the text that A1111's web UI writes into its files, for programs that read it.

    PROMPT
    Negative prompt: NEGATIVE PROMPT
    Steps: 20, Sampler: DPM++ 2M, CFG scale: 5.0, Seed: 7, Size: 512x512, Model: base, ...

It is for reading alone: `tether generate --again` repeats an image from Tether's own metadata.
"""

from __future__ import annotations

import json
from pathlib import PurePath

from tether.control.schedule import Schedule
from tether.sampling.request import ControlRequest, Request

__all__ = ["PARAMETERS_KEY", "parameters_text"]

PARAMETERS_KEY = "parameters"
_SAMPLERS = {
    "ddim": "DDIM",
    "dpmpp-2m": "DPM++ 2M",
    "unipc": "UniPC",
    "euler": "Euler",
    "euler-a": "Euler a",
    "lcm": "LCM",
}
_SIGMAS = {"karras": "Karras", "exponential": "Exponential"}
_FITS = {"crop": "Crop and Resize", "pad": "Resize and Fill", "stretch": "Just Resize"}


def parameters_text(request: Request, index: int) -> str:
    """The text for image `index` of a request's batch."""
    fields: dict[str, str] = {
        "Steps": str(request.steps),
        "Sampler": _SAMPLERS.get(request.scheduler, request.scheduler),
        "CFG scale": f"{request.guidance_scale:g}",
        "Seed": str(request.seeds[index]),
    }
    if request.sigmas is not None:
        fields["Schedule type"] = _SIGMAS[request.sigmas]
    if request.size is not None:
        fields["Size"] = "{}x{}".format(*request.size)
    fields["Model"] = PurePath(request.base).stem
    if request.vae is not None:
        fields["VAE"] = PurePath(request.vae).name
    if request.init is not None:
        fields["Denoising strength"] = f"{request.denoising_strength:g}"
    if request.clip_skip:
        fields["Clip skip"] = str(request.clip_skip + 1)  # 1 leaves no layer out there
    if request.eta:
        fields["Eta"] = f"{request.eta:g}"
    for k, control in enumerate(request.controls):
        fields[f"ControlNet {k}"] = _control(control, _FITS[request.fit])
    lines = [request.prompt]
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in fields.items()))
    return "\n".join(lines)


def _control(control: ControlRequest, fit: str) -> str:
    """One control; of a strength that is a schedule, which these programs do not have, its mean and its span."""
    strength, (start, end) = control.injection().strength, control.window
    if isinstance(strength, Schedule):
        start, end = max(start, strength.span[0]), min(end, strength.span[1])
        strength = strength.mean
    values = {
        "Module": control.annotator or "none",
        "Model": PurePath(control.ref).name,
        "Weight": f"{strength:g}",
        "Resize Mode": fit,
        "Guidance Start": f"{start:g}",
        "Guidance End": f"{end:g}",
    }
    return ", ".join(f"{name}: {value}" for name, value in values.items())


def _quoted(value: str) -> str:
    """As there: in quotes if a reader could take it for several fields."""
    return json.dumps(value, ensure_ascii=False) if any(sign in value for sign in ",:\n") else value
