"""What a page needs to begin with: the values of a request that says nothing, the weightings, and examples."""

from __future__ import annotations

import base64
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from tether.control.injection import Weighting
from tether.sampling import Request as DrawingRequest
from tether.serving.catalog import SHIPPED_BASE
from tether.serving.documents import refusals
from tether.serving.service import Service

__all__ = ["DefaultsView", "ExampleView", "WeightingView", "router"]

router = APIRouter(prefix="/v1")
WEIGHTINGS = {
    "balanced": "all layers alike",
    "conditional": "all layers alike, on the prompt's branch alone: follows more closely",
    "cfg-rw": "the paper's: coarse layers count more, on the prompt's branch alone",
    "released": "the paper's guess mode: fine layers count less, on the prompt's branch alone",
    "soft": "fine layers count less: the prompt is more important",
    "diffusers": "the guess mode of diffusers",
}
"""What people are told about each of `tether.Injection`."""
DEFAULTS = ("steps", "guidance_scale", "scheduler", "denoising_strength", "fit", "count", "rules")


class _View(BaseModel):
    model_config = ConfigDict(frozen=True)


class DefaultsView(_View):
    """What a request is drawn with where it says nothing."""

    base: str
    size: Annotated[list[int], Field(min_length=2, max_length=2)] | None = Field(
        description="Width and height of that base's own; null until it is open."
    )
    steps: int
    guidance_scale: float
    scheduler: str
    denoising_strength: float
    fit: str
    count: int
    dtype: str
    rules: int = Field(description="The rules of drawing of this version; see `rules` of a request.")


class WeightingView(_View):
    """How the layers of a control are weighted."""

    name: str
    summary: str


class ExampleView(_View):
    """A request that works here, to begin with."""

    name: str
    request: dict[str, Any] = Field(description="As `POST /v1/jobs` takes it, with its images.")


@router.get("/defaults", responses=refusals())
def defaults(request: Request) -> DefaultsView:
    """What a request is drawn with where it says nothing."""
    service: Service = request.app.state.service
    values = {name: DrawingRequest.model_fields[name].default for name in DEFAULTS}
    size = service.worker.size and list(service.worker.size)
    return DefaultsView(base=service.settings.base, size=size, dtype=service.settings.dtype, **values)


@router.get("/weightings", responses=refusals())
def weightings() -> list[WeightingView]:
    """The names that `weighting` of a control takes, besides a list of numbers."""
    return [WeightingView(name=name, summary=WEIGHTINGS.get(name, "")) for name in get_args(Weighting)]


@router.get("/examples", responses=refusals())
def examples(request: Request) -> list[ExampleView]:
    """Requests for the shipped base and controls; none where another base is drawn with."""
    service: Service = request.app.state.service
    return list(_shipped()) if service.settings.base == SHIPPED_BASE else []


@cache
def _shipped() -> tuple[ExampleView, ...]:
    doodle, house, mouse, lock = (_packaged(name) for name in ("doodle.png", "house.webp", "mouse.webp", "lock.webp"))
    return (
        _example("Apple from a doodle", "a red apple, 3d emoji", ref="canny", condition=doodle, invert=None),
        _example("House from a photo", "a house, 3d emoji", ref="canny", photo=house, strength=0.9, weighting="cfg-rw"),
        _example("Mouse, soft edges", "a mouse, flat emoji", ref="softedge", photo=mouse),
        _example("Lock, thick strokes", "a golden lock, 3d emoji", ref="scribble", photo=lock),
    )


def _example(name: str, prompt: str, **control: Any) -> ExampleView:
    return ExampleView(name=name, request={"prompt": prompt, "seed": 7, "controls": [control]})


def _packaged(name: str) -> str:
    return base64.b64encode((files("tether") / "examples" / name).read_bytes()).decode()
