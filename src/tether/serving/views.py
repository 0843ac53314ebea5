"""The JSON that the native API answers with."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tether.serving.store import Job

__all__ = [
    "AnnotatorView",
    "ControlView",
    "ErrorBody",
    "ErrorView",
    "ImageView",
    "JobList",
    "JobView",
    "KindView",
    "LimitsView",
    "NamedView",
    "OptionView",
    "ProgressView",
    "SamplerView",
    "job_view",
]

State = Literal["queued", "running", "done", "failed", "cancelled"]


class _View(BaseModel):
    model_config = ConfigDict(frozen=True)


class ErrorView(_View):
    """Why a request was refused."""

    code: str = Field(description="A word for programs: invalid, too_large, queue_full, not_found, ...")
    message: str = Field(description="One line for people.")
    field: str | None = Field(default=None, description='The place in the request, such as "controls.0.strength".')


class ErrorBody(_View):
    """The body of every answer with a status of 400 or more."""

    error: ErrorView


class ProgressView(_View):
    """Where a running job is."""

    step: int
    steps: int


class ImageView(_View):
    """One image of a job that is done."""

    url: str
    index: int


class JobView(_View):
    """A job."""

    id: str
    number: int = Field(description="Its place in the order of acceptance; `before` of the list takes it.")
    state: State
    position: int | None = Field(default=None, description="Queued: how many jobs are drawn before it.")
    progress: ProgressView | None = Field(default=None, description="Running: the steps so far.")
    prompt: str = Field(description="The first characters of the prompt.")
    count: int
    created: float = Field(description="Seconds since 1970, UTC.")
    started: float | None = None
    ended: float | None = None
    error: str | None = Field(default=None, description="Failed: why, in one line.")
    images: list[ImageView] = Field(default_factory=list, description="Done: PNGs that carry their request.")
    maps: list[str] = Field(default_factory=list, description="Done: the condition maps, control by control.")


class JobList(_View):
    """Jobs, newest first."""

    jobs: list[JobView]


class NamedView(_View):
    """Something that a request names."""

    name: str


class ControlView(NamedView):
    """A control."""

    kind: str | None = Field(default=None, description="The kind of its conditions, where its files or name say it.")


class OptionView(NamedView):
    """A number that an annotator takes."""

    default: float
    least: float
    most: float
    help: str


class AnnotatorView(NamedView):
    """One way to make the condition map of an image."""

    options: list[OptionView]
    ready: bool = Field(description="Whether it has all that it needs, such as weights, on this server.")


class KindView(NamedView):
    """A kind of condition."""

    summary: str
    annotators: list[AnnotatorView]
    is_image: bool = Field(description="The condition is the image itself.")
    white_lines: bool = Field(description="A ready map is white lines on black; `invert` takes its negative.")


class SamplerView(NamedView):
    """A sampler."""

    spacings: list[str]
    sigmas: list[str]
    takes_eta: bool


class LimitsView(_View):
    """What may be asked for."""

    queue: int
    body: int
    upload_pixels: int
    pixels: int
    steps: int
    count: int
    controls: int
    adapters: int
    prompt: int


def job_view(job: Job, position: int | None, progress: ProgressView | None) -> JobView:
    """A job as a client sees it."""
    root = f"/v1/jobs/{job.id}"
    return JobView(
        id=job.id,
        number=job.number,
        state=job.state,  # type: ignore[arg-type]
        position=position if job.state == "queued" else None,
        progress=progress if job.state == "running" else None,
        prompt=job.prompt,
        count=job.count,
        created=job.created,
        started=job.started,
        ended=job.ended,
        error=job.error,
        images=[ImageView(url=f"{root}/images/{k}", index=k) for k in range(job.images)],
        maps=[f"{root}/maps/{k}" for k in range(job.maps)],
    )
