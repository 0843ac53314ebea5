"""The native API, /v1."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from tether.kinds import kinds
from tether.kinds.polarity import has_white_lines
from tether.sampling import SCHEDULERS
from tether.sampling.request import METADATA_KEY
from tether.serving.annotations import Annotation, annotated
from tether.serving.bodies import read_values
from tether.serving.documents import body_of, refusals
from tether.serving.errors import invalid, not_found
from tether.serving.events import EventStream, follow
from tether.serving.service import Service
from tether.serving.store import Job
from tether.serving.uploads import image_bytes, parse_json, png_text, read_image
from tether.serving.views import (
    AnnotatorView,
    ControlView,
    JobList,
    JobView,
    KindView,
    LimitsView,
    NamedView,
    OptionView,
    SamplerView,
)

__all__ = ["REQUEST_SCHEMA", "router"]

REQUEST_SCHEMA = "Request"
"""The name of the schema of `tether.sampling.Request` in the OpenAPI document."""
FOREVER = {"cache-control": "private, max-age=31536000, immutable"}
"""Of files that never change under their address."""


router = APIRouter(prefix="/v1")


def _service(request: Request) -> Service:
    return request.app.state.service


@router.post(
    "/jobs",
    status_code=202,
    response_model=JobView,
    response_model_exclude_none=True,
    responses=refusals(408, 413, 415, 422, 429, 503) | {200: {"model": JobView, "description": "Accepted before."}},
    openapi_extra=body_of(
        {"$ref": f"#/components/schemas/{REQUEST_SCHEMA}"},
        "init, mask, controls.N.photo, controls.N.condition, controls.N.mask",
    ),
    summary="Accept a job.",
)
async def create_job(
    request: Request, idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None
) -> Any:
    """The body is a request, with images in base64; or a form with the request as JSON in its part `request`, and
    images as files. A seed that is left out is random. The same `Idempotency-Key` gives the same job again, with 200.
    """
    service = _service(request)
    if idempotency_key is None:
        await run_in_threadpool(service.check_room)
    values = await read_values(request)
    job, created = await service.read(service.submit, values, idempotency_key)
    view = await run_in_threadpool(service.view, job)
    headers = {"location": f"/v1/jobs/{job.id}"}
    return JSONResponse(view.model_dump(exclude_none=True), 202 if created else 200, headers)


@router.get("/jobs", response_model=JobList, response_model_exclude_none=True, responses=refusals(422))
def list_jobs(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[int | None, Query(ge=1, lt=2**62)] = None,
) -> JobList:
    """The last jobs, newest first; `before` a number, for the next page."""
    service = _service(request)
    return JobList(jobs=[service.view(job) for job in service.store.jobs(limit, before)])


@router.get("/jobs/{id}", response_model=JobView, response_model_exclude_none=True, responses=refusals(404))
def get_job(request: Request, id: str) -> JobView:
    """A job: its state, its place in the queue or its steps, its images."""
    service = _service(request)
    return service.view(service.job(id))


@router.delete("/jobs/{id}", response_model=JobView, response_model_exclude_none=True, responses=refusals(404))
def cancel_job(request: Request, id: str) -> JobView:
    """Cancels a job: at once while it waits, between two steps while it runs. One that has ended stays as it is."""
    service = _service(request)
    return service.view(service.cancel(id))


@router.get(
    "/jobs/{id}/events",
    response_class=Response,
    responses=refusals(404, 503) | {200: {"content": {"text/event-stream": {}}, "description": "Server-sent events."}},
)
async def job_events(request: Request, id: str, preview: bool = False) -> Response:
    """Events named by the job's state; the data of each is the job, while it runs with `progress`, and with `preview`
    a small PNG as a data URL. The last one is done, failed or cancelled."""
    service = _service(request)
    job = await run_in_threadpool(service.job, id)

    async def view() -> JobView | None:
        return await run_in_threadpool(_view_if_kept, service, job.id)

    service.stream_begins()
    events = follow(job.id, view, service.hub, preview)
    return EventStream(events, service.settings.limits.idle, service.stream_ended)


def _view_if_kept(service: Service, id: str) -> JobView | None:
    found = service.store.get(id)
    return None if found is None else service.view(found)


@router.get("/jobs/{id}/request", responses=refusals(404) | {200: {"description": "The request."}})
def job_request(request: Request, id: str) -> Response:
    """The request of a job as it was accepted, with its seed; posted again it gives the same images."""
    service = _service(request)
    return Response(service.folders.request(service.job(id).id), media_type="application/json")


_PNG = {200: {"content": {"image/png": {}}, "description": "A PNG."}}


@router.get("/jobs/{id}/images/{index}", response_class=FileResponse, responses=refusals(404) | _PNG)
def job_image(request: Request, id: str, index: int) -> FileResponse:
    """An image of a job that is done; it carries its request."""
    service = _service(request)
    job = service.job(id)
    return _file(service.folders.image(job.id, index) if 0 <= index < job.images else None, job, "image", index)


@router.get("/jobs/{id}/maps/{index}", response_class=FileResponse, responses=refusals(404) | _PNG)
def job_map(request: Request, id: str, index: int) -> FileResponse:
    """The condition map of a control of a job that is done."""
    service = _service(request)
    job = service.job(id)
    return _file(service.folders.map(job.id, index) if 0 <= index < job.maps else None, job, "map", index)


def _file(path: Any, job: Job, what: str, index: int) -> FileResponse:
    if path is None or not path.is_file():
        raise not_found(f"job {job.id} is {job.state} and has no {what} {index}")
    return FileResponse(path, media_type="image/png", headers=FOREVER)


@router.post(
    "/annotate",
    response_class=Response,
    responses=refusals(413, 415, 422, 503) | _PNG,
    openapi_extra=body_of({"$ref": f"#/components/schemas/{Annotation.__name__}"}, "image"),
)
async def annotate(request: Request) -> Response:
    """The condition map of an image, at its own size or fitted to another; a PNG."""
    service = _service(request)
    values = await read_values(request)
    return Response(await service.read(annotated, values, service.settings), media_type="image/png")


@router.post(
    "/read",
    responses=refusals(413, 415, 422, 503) | {200: {"description": "The request."}},
    openapi_extra=body_of(
        {"type": "object", "properties": {"image": {"type": "string", "contentEncoding": "base64"}}}, "image"
    ),
)
async def read_png(request: Request) -> Response:
    """The request that a PNG of Tether carries, with the images in it. Nothing of it is opened or run."""
    service = _service(request)
    values = await read_values(request)
    text = await service.read(_carried, values, service.settings.limits.upload_pixels)
    return Response(text, media_type="application/json")


def _carried(values: dict[str, Any], most: int) -> str:
    content = image_bytes(values.get("image"), "image")
    read_image(content, "image", most)
    text = png_text(content, METADATA_KEY)
    if text is None:
        raise invalid("image", "the image carries no request: only pictures that Tether drew, as PNG, do")
    return json.dumps(parse_json(text, "the request in the image"))


@router.get("/kinds", responses=refusals())
def list_kinds() -> list[KindView]:
    """The kinds of conditions, with their annotators and the options of those."""
    return [
        KindView(
            name=kind.name,
            summary=kind.summary,
            is_image=kind.is_image,
            white_lines=has_white_lines(kind),
            annotators=[
                AnnotatorView(
                    name=name,
                    ready=annotator.is_ready,
                    options=[
                        OptionView(name=option, default=one.default, least=one.least, most=one.most, help=one.help)
                        for option, one in annotator.options.items()
                    ],
                )
                for name, annotator in kind.annotators.items()
            ],
        )
        for kind in kinds().values()
    ]


@router.get("/controls", response_model_exclude_none=True, responses=refusals())
def list_controls(request: Request) -> list[ControlView]:
    """The controls that a request may name as `ref`."""
    entries = _service(request).catalog.entries("controls").values()
    return [ControlView(name=entry.name, kind=entry.kind) for entry in entries]


@router.get("/bases", responses=refusals())
def list_bases(request: Request) -> list[NamedView]:
    """The bases that a request may name; the first of `/v1/limits` is opened at start."""
    return _named(request, "bases")


@router.get("/vaes", responses=refusals())
def list_vaes(request: Request) -> list[NamedView]:
    """The autoencoders that a request may name."""
    return _named(request, "vaes")


@router.get("/loras", responses=refusals())
def list_loras(request: Request) -> list[NamedView]:
    """The LoRA files that a request may name, each NAME or NAME:STRENGTH."""
    return _named(request, "loras")


@router.get("/embeddings", responses=refusals())
def list_embeddings(request: Request) -> list[NamedView]:
    """The textual-inversion embeddings that a request may name."""
    return _named(request, "embeddings")


def _named(request: Request, what: str) -> list[NamedView]:
    return [NamedView(name=name) for name in _service(request).catalog.entries(what)]


@router.get("/samplers", responses=refusals())
def list_samplers() -> list[SamplerView]:
    """The samplers: a request's `scheduler`, with what goes with each."""
    return [
        SamplerView(name=name, spacings=list(one.spacings), sigmas=list(one.sigmas), takes_eta=one.takes_eta)
        for name, one in SCHEDULERS.items()
    ]


@router.get("/limits", responses=refusals())
def limits(request: Request) -> LimitsView:
    """What may be asked for."""
    found = _service(request).settings.limits.model_dump()
    return LimitsView(**{name: found[name] for name in LimitsView.model_fields})
