"""The routes of that API."""

from __future__ import annotations

import base64
import json
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from PIL import Image
from starlette.concurrency import run_in_threadpool

from tether.sampling.parameters import PARAMETERS_KEY
from tether.serving.bodies import forget, read_values
from tether.serving.documents import body_of, refusals
from tether.serving.errors import invalid, not_found
from tether.serving.service import Service
from tether.serving.store import Job
from tether.serving.uploads import image_bytes, parse_json, png_text, read_image
from tether.serving.waiting import ended
from tether.serving.webui.names import SAMPLERS, SCHEDULES, find_module, module_table
from tether.serving.webui.payload import Options, Wanted, wanted
from tether.serving.webui.schema import DETECT, IMG2IMG, OPTIONS, PNG_INFO, TXT2IMG
from tether.serving.webui.units import as_png, detected, number

__all__ = ["router"]

router = APIRouter(tags=["webui"], responses=refusals())
LARGE = ("init_images", "mask", "alwayson_scripts")
"""What of a payload has images; answers repeat the rest."""
EXTENSION = 2
"""The version of the ControlNet extension whose API this is."""
DETECTED = {
    "controlnet_module", "controlnet_input_images", "controlnet_images", "controlnet_processor_res",
    "controlnet_threshold_a", "controlnet_threshold_b", "low_vram",
}  # fmt: skip
"""What `detect` takes."""
READ = refusals(408, 413, 415, 422, 503)
DRAWN = refusals(404, 408, 413, 415, 422, 429, 503)


def _service(request: Request) -> Service:
    return request.app.state.service


def _options(request: Request) -> Options:
    return getattr(request.app.state, "webui_options", None) or Options(base=_service(request).settings.base)


@router.post("/sdapi/v1/txt2img", openapi_extra=body_of(TXT2IMG), responses=DRAWN)
async def txt2img(request: Request) -> JSONResponse:
    """Draws from a prompt, and answers when it is done."""
    return await _drawn(request, from_image=False)


@router.post("/sdapi/v1/img2img", openapi_extra=body_of(IMG2IMG), responses=DRAWN)
async def img2img(request: Request) -> JSONResponse:
    """Draws from an image, with a mask a part of it, and answers when it is done."""
    return await _drawn(request, from_image=True)


async def _drawn(request: Request, *, from_image: bool) -> JSONResponse:
    service, options = _service(request), _options(request)
    await run_in_threadpool(service.check_room)
    payload = await read_values(request)
    job, read = await service.read(_submitted, service, payload, options, from_image)
    parameters = {name: value for name, value in payload.items() if name not in LARGE}
    del payload
    forget(request)
    found = await ended(service, job.id)
    return JSONResponse(await run_in_threadpool(_answer, service, found, parameters, read))


def _submitted(service: Service, payload: dict[str, Any], options: Options, from_image: bool) -> tuple[Job, Wanted]:
    """The job, and what is wanted of it, without its images."""
    read = wanted(payload, options, service.settings.limits, from_image=from_image)
    return service.submit(read.values)[0], replace(read, values={})


def _answer(service: Service, job: Job, parameters: dict[str, Any], read: Wanted) -> dict[str, Any]:
    """The images, then the maps; what was sent, without images; `info` is JSON in a text."""
    paths = [service.folders.image(job.id, k) for k in range(job.images)]
    texts = [_text(path) for path in paths]
    maps = [service.folders.map(job.id, k) for k in read.maps] if job.images else []
    images = [_base64(path) for path in [*paths, *maps] if path.is_file()] if read.send else []
    request = parse_json(service.folders.request(job.id), "the request")
    return {"images": images, "parameters": parameters, "info": json.dumps(_info(job, request, texts))}


def _info(job: Job, request: dict[str, Any], texts: list[str]) -> dict[str, Any]:
    """What that API tells of a batch."""
    seeds = [request["seed"] + k for k in range(job.images)]
    prompt, negative = request["prompt"], request["negative_prompt"]
    sampler = {own: name for name, own in SAMPLERS.items()}[request["scheduler"]]
    width, height = request["size"]
    return {
        "prompt": prompt,
        "all_prompts": [prompt] * len(seeds),
        "negative_prompt": negative,
        "all_negative_prompts": [negative] * len(seeds),
        "seed": request["seed"],
        "all_seeds": seeds,
        "subseed": request["seed"],
        "all_subseeds": seeds,
        "subseed_strength": 0,
        "width": width,
        "height": height,
        "sampler_name": sampler,
        "cfg_scale": request["guidance_scale"],
        "steps": request["steps"],
        "batch_size": request["count"],
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": request["base"],
        "sd_model_hash": "",
        "sd_vae_name": request.get("vae"),
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": request.get("denoising_strength"),
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": texts,
        "styles": [],
        "job_timestamp": str(int(job.created)),
        "clip_skip": request.get("clip_skip", 0) + 1,
        "is_using_inpainting_conditioning": False,
        "version": "tether",
        "job_id": job.id,
    }


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _text(path: Path) -> str:
    with Image.open(path) as image:
        image.load()
        return getattr(image, "text", {}).get(PARAMETERS_KEY, "")


@router.get("/sdapi/v1/progress")
def progress(request: Request, skip_current_image: bool = False) -> dict[str, Any]:
    """Where the running job is, with a preview."""
    service = _service(request)
    running = service.store.jobs(1, state="running")
    waiting = service.store.waiting()
    live = service.live(running[0]) if running else None
    step, steps = (0, 0) if live is None else (live.step, live.steps)
    share = step / steps if steps else 0.0
    preview = None if live is None or live.preview is None or skip_current_image else live.preview
    state = {
        "skipped": False,
        "interrupted": bool(running and service.hub.is_cancelled(running[0].id)),
        "stopping_generation": False,
        "job": running[0].id if running else "",
        "job_count": waiting,
        "job_timestamp": str(int(running[0].created)) if running else "0",
        "job_no": 0,
        "sampling_step": step,
        "sampling_steps": steps,
    }
    return {
        "progress": share,
        "eta_relative": service.worker.seconds_a_job * (1 - share) if running else 0.0,
        "state": state,
        "current_image": None if preview is None else base64.b64encode(preview).decode(),
        "textinfo": None if waiting <= len(running) else f"{waiting - len(running)} jobs wait",
    }


@router.post("/sdapi/v1/interrupt")
def interrupt(request: Request) -> dict[str, Any]:
    """Cancels the running jobs, between two steps; those that wait stay."""
    service = _service(request)
    for job in service.store.jobs(100, state="running"):
        service.cancel(job.id)
    return {}


@router.get("/sdapi/v1/options")
def get_options(request: Request) -> dict[str, Any]:
    """The settings that there are here."""
    options = _options(request)
    return {
        "sd_model_checkpoint": options.base,
        "sd_checkpoint_hash": "",
        "sd_vae": options.vae or "Automatic",
        "CLIP_stop_at_last_layers": options.clip_skip + 1,
        "samples_format": "png",
    }


@router.post("/sdapi/v1/options", openapi_extra=body_of(OPTIONS), responses=READ)
async def set_options(request: Request) -> dict[str, Any]:
    """Sets the base, the autoencoder or the layers of the text encoder for the requests that name none."""
    values = await read_values(request)
    await run_in_threadpool(_set_options, request, values)
    return {}


def _set_options(request: Request, values: dict[str, Any]) -> None:
    now = get_options(request)
    # Clients change one of the settings that they were told, and send all of them.
    changes = {name: value for name, value in values.items() if name not in now or now[name] != value}
    changed = _options(request).with_settings(changes, "options")
    catalog = _service(request).catalog
    if changed.base is not None:
        _known(catalog.find, "bases", changed.base, "sd_model_checkpoint")
    if changed.vae is not None:
        _known(catalog.find, "vaes", changed.vae, "sd_vae")
    request.app.state.webui_options = changed


def _known(find: Any, what: str, name: str, field: str) -> None:
    try:
        find(what, name)
    except Exception as error:
        raise invalid(field, str(error)) from None


@router.get("/sdapi/v1/samplers")
def samplers() -> list[dict[str, Any]]:
    """The samplers by their names there."""
    return [{"name": name, "aliases": [own], "options": {}} for name, own in SAMPLERS.items()]


@router.get("/sdapi/v1/schedulers")
def schedulers() -> list[dict[str, Any]]:
    """The schedules of noise levels."""
    common = {"aliases": None, "default_rho": -1, "need_inner_model": False}
    return [{"name": name, "label": name.capitalize(), **common} for name in SCHEDULES]


@router.get("/sdapi/v1/sd-models")
def sd_models(request: Request) -> list[dict[str, Any]]:
    """The bases, by name; where their files are is not told."""
    names = _service(request).catalog.entries("bases")
    common = {"hash": None, "sha256": None, "config": None}
    return [{"title": name, "model_name": name, "filename": name, **common} for name in names]


@router.get("/sdapi/v1/sd-vae")
def sd_vae(request: Request) -> list[dict[str, Any]]:
    """The autoencoders."""
    return [{"model_name": name, "filename": name} for name in _service(request).catalog.entries("vaes")]


@router.get("/sdapi/v1/loras")
def loras(request: Request) -> list[dict[str, Any]]:
    """The LoRA files: <lora:NAME:WEIGHT> in a prompt."""
    names = _service(request).catalog.entries("loras")
    return [{"name": name, "alias": name, "path": name, "metadata": {}} for name in names]


@router.get("/sdapi/v1/embeddings")
def embeddings() -> dict[str, Any]:
    """None: a request of this API cannot load one."""
    return {"loaded": {}, "skipped": {}}


@router.get("/sdapi/v1/scripts")
def scripts() -> dict[str, Any]:
    """The scripts; clients look for these names to find the extension."""
    return {"txt2img": ["controlnet", "controlnet m2m"], "img2img": ["controlnet", "controlnet m2m"]}


@router.get("/sdapi/v1/upscalers")
@router.get("/sdapi/v1/latent-upscale-modes")
@router.get("/sdapi/v1/hypernetworks")
@router.get("/sdapi/v1/face-restorers")
@router.get("/sdapi/v1/realesrgan-models")
@router.get("/sdapi/v1/prompt-styles")
@router.get("/sdapi/v1/script-info")
def none_of_these() -> list[Any]:
    """Things that there are none of here."""
    return []


@router.get("/sdapi/v1/cmd-flags")
def cmd_flags() -> dict[str, Any]:
    """No flags."""
    return {}


@router.get("/sdapi/v1/extensions")
def extensions() -> list[dict[str, Any]]:
    """The extension whose API is here."""
    return [{"name": "sd-webui-controlnet", "remote": "", "branch": "", "version": "", "enabled": True}]


@router.get("/sdapi/v1/memory")
def memory() -> dict[str, Any]:
    """The most memory that the process has used, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"ram": {"used": used}, "cuda": {"error": "not measured"}}


@router.post("/sdapi/v1/refresh-checkpoints")
@router.post("/sdapi/v1/refresh-loras")
@router.post("/sdapi/v1/refresh-vae")
def refresh() -> None:
    """Nothing to do: folders are read whenever a name is asked for."""


@router.post("/sdapi/v1/png-info", openapi_extra=body_of(PNG_INFO), responses=READ)
async def png_info(request: Request) -> dict[str, Any]:
    """The text that a PNG carries for that API."""
    values = await read_values(request)
    service = _service(request)
    return await service.read(_png_info, values, service.settings.limits.upload_pixels)


def _png_info(values: dict[str, Any], most: int) -> dict[str, Any]:
    content = image_bytes(values.get("image"), "image")
    read_image(content, "image", most)
    text = png_text(content, PARAMETERS_KEY) or ""
    return {"info": text, "items": {PARAMETERS_KEY: text} if text else {}, "parameters": {}}


@router.get("/controlnet/version")
def version() -> dict[str, int]:
    """The version of the extension's API."""
    return {"version": EXTENSION}


@router.get("/controlnet/model_list")
def model_list(request: Request) -> dict[str, list[str]]:
    """The controls."""
    return {"model_list": list(_service(request).catalog.entries("controls"))}


@router.get("/controlnet/module_list")
def module_list() -> dict[str, Any]:
    """The annotators, with their options as sliders."""
    table = module_table()
    details = {
        name: {
            "model_free": False,
            "sliders": [
                {"name": one.help, "value": one.default, "min": one.least, "max": one.most, "step": 1}
                for _, one in module.sliders
            ],
        }
        for name, module in table.items()
    }
    return {"module_list": list(table), "module_detail": details}


@router.get("/controlnet/control_types")
def control_types(request: Request) -> dict[str, Any]:
    """The kinds, each with its annotators and controls."""
    modules = module_table()
    controls = _service(request).catalog.entries("controls")
    types = {"All": _type(list(modules), list(controls))}
    for kind in dict.fromkeys(module.kind for module in modules.values() if module.kind is not None):
        own = ["none"] + [name for name, module in modules.items() if module.kind == kind]
        types[kind.capitalize()] = _type(own, [name for name, one in controls.items() if one.kind == kind])
    return {"control_types": types}


def _type(modules: list[str], models: list[str]) -> dict[str, Any]:
    return {
        "module_list": modules,
        "model_list": ["None", *models],
        "default_option": modules[1] if len(modules) > 1 else modules[0],
        "default_model": models[0] if models else "None",
    }


@router.get("/controlnet/settings")
def settings(request: Request) -> dict[str, int]:
    """How many units a request may have."""
    return {"control_net_unit_count": _service(request).settings.limits.controls}


@router.post("/controlnet/detect", openapi_extra=body_of(DETECT), responses=READ)
async def detect(request: Request) -> dict[str, Any]:
    """The maps of images."""
    values = await read_values(request)
    service = _service(request)
    return {"info": "Success", "images": await service.read(_detected, service, values), "poses": []}


def _detected(service: Service, values: dict[str, Any]) -> list[str]:
    """The maps; `controlnet_images` is what one client calls `controlnet_input_images`."""
    for name, value in values.items():
        if name not in DETECTED and value not in (None, False, "", []):
            raise invalid(name[:80], f"{name[:60]} is not supported: leave it out")
    module = find_module(values.get("controlnet_module"), "controlnet_module")
    images = values.get("controlnet_input_images") or values.get("controlnet_images")
    if not isinstance(images, list) or not 0 < len(images) <= service.settings.limits.count:
        raise invalid("controlnet_input_images", f"expected a list of 1 to {service.settings.limits.count} images")
    resolution = number(values, "controlnet_processor_res", -1, -1, 2048)
    options = module.options([values.get("controlnet_threshold_a"), values.get("controlnet_threshold_b")])
    made = []
    for index, one in enumerate(images):
        where = f"controlnet_input_images.{index}"
        image = read_image(image_bytes(one, where), where, service.settings.limits.upload_pixels)
        made.append(as_png(detected(module, image, resolution, options, where, service.settings.limits.pixels)))
    return made


@router.api_route("/sdapi/v1/{name:path}", methods=["GET", "POST"], include_in_schema=False)
@router.api_route("/controlnet/{name:path}", methods=["GET", "POST"], include_in_schema=False)
def not_done(name: str) -> None:
    """What that API has, and Tether does not do."""
    raise not_found(f"{name[:80]} is not supported here: GET /openapi.json lists what is")
