"""The web UI's API, driven by the clients that people use, as they are on PyPI."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import Any

import httpx2
import numpy as np
import pytest
import webuiapi
from PIL import Image
from sd_backend_client import A1111Webservice, ControlNetUnit, DiffusionRequestBody
from sd_backend_client.api.shared_data.controlnet.controlnet_model import ControlNetModel
from sd_backend_client.api.shared_data.controlnet.controlnet_preprocessor import PreprocessorParams

from tether.images import fit, open_image
from tether.kinds import annotate
from tether.sampling import Request, Session
from tether.serving import Settings, create_app
from tether.serving.run import listening, uvicorn_server

from .conftest import as_base64

SIZE = {"width": 64, "height": 64}
NEVER = {"width": 64, "height": 64, "steps": 2, "prompt": "x"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, settings_at: Callable[..., Settings]) -> Iterator[str]:
    """A server in a thread of its own."""
    settings = settings_at(tmp_path_factory.mktemp("webui") / "data")
    with listening("127.0.0.1", 0) as made:
        server = uvicorn_server(create_app(settings), settings)
        thread = Thread(target=server.run, kwargs={"sockets": [made]})
        thread.start()
        yield f"http://127.0.0.1:{made.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def api(url: str) -> webuiapi.WebUIApi:
    return webuiapi.WebUIApi(baseurl=f"{url}/sdapi/v1", steps=2)


@pytest.fixture(scope="module")
def service(url: str) -> A1111Webservice:
    return A1111Webservice(url)


def same(one: Image.Image, other: Image.Image) -> bool:
    return bool((np.asarray(one.convert("RGB")) == np.asarray(other.convert("RGB"))).all())


def own(base: Any, **values: Any) -> list[Image.Image]:
    return [one.image for one in Session().run(Request(base=str(base), steps=2, guidance_scale=7.0, **values))]


def test_webuiapi_draws_what_the_same_native_request_draws(api: webuiapi.WebUIApi, tiny_folder: Any) -> None:
    result = api.txt2img(prompt="a cube", negative_prompt="blue", seed=5, batch_size=2, **SIZE)
    expected = own(
        tiny_folder, prompt="a cube", negative_prompt="blue", seed=5, count=2, scheduler="euler-a", size=(64, 64)
    )
    assert len(result.images) == 2
    assert all(same(one, other) for one, other in zip(result.images, expected, strict=True))
    assert result.info["all_seeds"] == [5, 6]
    assert "Steps: 2, Sampler: Euler a" in result.info["infotexts"][0]
    assert "Steps: 2" in api.png_info(result.image).info


@pytest.mark.parametrize(
    ("sampler", "scheduler", "native"),
    [
        ("DPM++ 2M", "automatic", {"scheduler": "dpmpp-2m", "sigmas": "karras"}),
        ("DPM++ 2M Karras", "automatic", {"scheduler": "dpmpp-2m", "sigmas": "karras"}),
        ("DPM++ 2M", "normal", {"scheduler": "dpmpp-2m"}),
        ("Euler", "Exponential", {"scheduler": "euler", "sigmas": "exponential"}),
        ("DDIM", "automatic", {"scheduler": "ddim", "eta": 1.0}),  # webuiapi always sends eta 1
    ],
)
def test_samplers_have_their_names_there(
    api: webuiapi.WebUIApi, tiny_folder: Any, sampler: str, scheduler: str, native: dict[str, Any]
) -> None:
    result = api.txt2img(prompt="x", seed=1, sampler_name=sampler, scheduler=scheduler, **SIZE)
    assert same(result.image, own(tiny_folder, prompt="x", seed=1, size=(64, 64), **native)[0])


def test_webuiapi_steers_by_a_unit(api: webuiapi.WebUIApi, photo: Image.Image) -> None:
    assert api.has_controlnet
    assert "edges" in api.controlnet_model_list()
    unit = webuiapi.ControlNetUnit(
        image=photo, module="canny", model="edges", weight=0.8, guidance_end=0.9, resize_mode="Crop and Resize",
        control_mode=2, pixel_perfect=True, threshold_a=20, threshold_b=60,
    )  # fmt: skip
    result = api.txt2img(prompt="x", seed=1, controlnet_units=[unit], **SIZE)
    assert len(result.images) == 2  # the map follows the image
    assert same(result.images[1], annotate("canny", fit(photo, 64, 64), low=20, high=60))
    without = api.txt2img(prompt="x", seed=1, **SIZE)
    assert not same(without.image, result.image)


def test_a_unit_is_the_native_control_of_its_values(url: str, photo: Image.Image) -> None:
    lines = annotate("canny", fit(photo, 64, 64))
    unit = {"module": "none", "model": "edges [d14c016b]", "image": as_base64(lines), "weight": 0.7, "control_mode": 1}
    native = {"ref": "edges", "condition": as_base64(lines), "strength": 0.7, "weighting": "soft"}
    payload = NEVER | {"seed": 3, "alwayson_scripts": {"controlnet": {"args": [unit]}}, "sampler_name": "Euler"}
    with httpx2.Client(base_url=url, timeout=60) as client:
        answer = client.post("/sdapi/v1/txt2img", json=payload).json()
        values = {"prompt": "x", "steps": 2, "seed": 3, "scheduler": "euler", "guidance_scale": 7.0, "size": [64, 64]}
        job = client.post("/v1/jobs", json=values | {"controls": [native]}).json()
        while client.get(f"/v1/jobs/{job['id']}").json()["state"] != "done":
            time.sleep(0.02)
        expected = client.get(f"/v1/jobs/{job['id']}/images/0").content
    assert same(read(answer["images"][0]), open_image(io.BytesIO(expected)))


def read(text: str) -> Image.Image:
    return open_image(io.BytesIO(base64.b64decode(text)))


def forms(image: str, mask: str) -> list[dict[str, Any]]:
    """One unit in all the forms that clients send."""
    common = {"module": "canny", "model": "edges", "threshold_a": 20, "threshold_b": 60, "pixel_perfect": True}
    data = f"data:image/png;base64,{image}"
    return [common | one for one in (
        {"image": image},
        {"image": data},
        {"input_image": image, "lowvram": False},
        {"image": [image]},
        {"image": {"image": image, "mask": None}},
        {"image": {"image": image, "mask": mask}},
        {"image": image, "mask": mask},
        {"image": image, "resize_mode": 1, "control_mode": 0},
        {"image": image, "resize_mode": "Crop and Resize", "control_mode": "Balanced"},
        {"image": image, "resize_mode": "Scale to Fit (Inner Fit)", "control_mode": "balanced"},
        {"image": image, "guidance": 1.0, "processor_res": 512, "low_vram": True, "hr_option": "Both"},
        {"image": image, "is_ui": False, "input_mode": "simple", "union_control_type": "Unknown"},
    )]  # fmt: skip


def test_a_unit_is_read_in_every_form_that_clients_send(url: str, photo: Image.Image) -> None:
    black = as_base64(Image.new("RGB", photo.size))
    found = []
    with httpx2.Client(base_url=url, timeout=60) as client:
        names = ["ControlNet", "controlnet", "controlNet"] * 4
        for name, unit in zip(names, forms(as_base64(photo), black), strict=True):
            payload = NEVER | {"seed": 1, "alwayson_scripts": {name: {"args": [unit]}}}
            answer = client.post("/sdapi/v1/txt2img", json=payload)
            assert answer.status_code == 200, (unit, answer.text)
            found.append(answer.json()["images"])
    assert all(one == found[0] for one in found)
    assert len(found[0]) == 2


def test_what_is_painted_on_the_canvas_is_the_image_of_a_unit(url: str, photo: Image.Image) -> None:
    strokes = Image.new("RGB", (64, 64))
    strokes.paste((255, 255, 255), (10, 10, 20, 50))
    unit = {"model": "edges", "image": as_base64(photo), "mask": as_base64(strokes)}
    answer = httpx2.post(f"{url}/sdapi/v1/txt2img", json=NEVER | {"alwayson_scripts": {"controlnet": {"args": [unit]}}})
    assert same(read(answer.json()["images"][1]), strokes)


def test_webuiapi_starts_from_an_image_and_paints_into_a_mask(api: webuiapi.WebUIApi, photo: Image.Image) -> None:
    start = fit(photo, 64, 64)
    result = api.img2img([photo], prompt="x", seed=1, denoising_strength=0.5, resize_mode=1, **SIZE)
    assert result.image.size == (64, 64)
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    painted = api.img2img(
        [start], mask_image=mask, mask_blur=0, inpainting_fill=1, inpaint_full_res=False, prompt="x", seed=1, **SIZE
    ).image
    right = (40, 0, 64, 64)
    assert same(painted.crop(right), start.crop(right))
    assert not same(painted, start)
    other = api.img2img(
        [start], mask_image=mask, mask_blur=0, inpainting_fill=1, inpaint_full_res=False, inpainting_mask_invert=1,
        prompt="x", seed=1, **SIZE,
    ).image  # fmt: skip
    left = (0, 0, 24, 64)
    assert same(other.crop(left), start.crop(left))


def test_webuiapi_annotates(api: webuiapi.WebUIApi) -> None:
    picture = Image.new("RGB", (128, 64), (10, 10, 10))
    picture.paste((240, 240, 240), (30, 20, 90, 50))
    result = api.controlnet_detect([picture], module="canny", processor_res=64, threshold_a=50, threshold_b=100)
    assert same(result.image, annotate("canny", picture, low=50, high=100))
    assert api.controlnet_version() >= 2
    assert "canny" in api.controlnet_module_list()
    with pytest.raises(RuntimeError, match=r"there is no preprocessor .*dreams"):
        api.controlnet_detect([picture], module="dreams")
    with pytest.raises(RuntimeError, match="expected a list of 1"):
        api.controlnet_detect([], module="canny")


def test_webuiapi_finds_its_way_around(url: str, api: webuiapi.WebUIApi) -> None:
    assert "tiny" in api.util_get_model_names()
    assert "Euler a" in api.util_get_sampler_names()
    assert "automatic" in api.util_get_scheduler_names()
    assert api.util_get_current_model() == "tiny"
    api.set_options({"sd_model_checkpoint": "tiny", "CLIP_stop_at_last_layers": 2})
    assert api.get_options()["CLIP_stop_at_last_layers"] == 2
    api.set_options({"CLIP_stop_at_last_layers": 1})
    api.set_options(api.get_options() | {"sd_model_checkpoint": "tiny"})  # all of them, as clients do
    other = api.get_options() | {"samples_format": "webp"}
    answer = httpx2.post(f"{url}/sdapi/v1/options", json=other)  # webuiapi does not look at the status
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "options.samples_format")
    assert api.get_progress()["state"]["job_count"] == 0
    for name in ("upscalers", "hypernetworks", "face_restorers", "realesrgan_models", "prompt_styles", "loras"):
        assert getattr(api, f"get_{name}")() == []
    assert api.get_sd_vae() == []
    assert api.get_cmd_flags() == {}
    assert api.get_memory()["ram"]["used"] > 0
    assert api.get_embeddings()["loaded"] == {}
    api.refresh_checkpoints()
    assert api.interrupt() == {}


def test_sillytaverns_payload_is_drawn(url: str) -> None:
    """Every key that it sends, for SD.Next and for its own server too."""
    payload = {
        "url": "http://127.0.0.1:7860",
        "auth": "",
        "prompt": "a cube",
        "negative_prompt": "",
        "sampler_name": "Euler a",
        "scheduler": "automatic",
        "steps": 2,
        "cfg_scale": 5,
        "width": 64,
        "height": 64,
        "restore_faces": False,
        "enable_hr": False,
        "hr_upscaler": "Latent",
        "hr_scale": 1.5,
        "denoising_strength": 0.7,
        "hr_second_pass_steps": 0,
        "seed": 3,
        "override_settings": {"CLIP_stop_at_last_layers": 2},
        "override_settings_restore_afterwards": True,
        "clip_skip": 2,
        "save_images": True,
        "send_images": True,
        "do_not_save_grid": False,
        "do_not_save_samples": False,
    }
    answer = httpx2.post(f"{url}/sdapi/v1/txt2img", json=payload, timeout=60)
    assert answer.status_code == 200, answer.text
    assert json.loads(answer.json()["info"])["clip_skip"] == 2
    only = {"clip_skip": 2, "steps": 1, "width": 64, "height": 64, "prompt": "x", "sampler_name": "Euler a"}
    answer = httpx2.post(f"{url}/sdapi/v1/txt2img", json=only, timeout=60)
    assert json.loads(answer.json()["info"])["clip_skip"] == 2


def test_a_map_has_no_more_pixels_than_a_picture_may_have(url: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 512)).save(buffer, "PNG")
    image = base64.b64encode(buffer.getvalue()).decode()
    unit = {"model": "edges", "module": "softedge", "image": image, "processor_res": 2048}
    asked = [
        ("/controlnet/detect", {"controlnet_module": "softedge", "controlnet_input_images": [image]}),
        ("/sdapi/v1/txt2img", NEVER | {"alwayson_scripts": {"controlnet": {"args": [unit]}}}),
    ]
    asked[0][1]["controlnet_processor_res"] = 2048
    for path, values in asked:
        answer = httpx2.post(f"{url}{path}", json=values, timeout=60)
        assert answer.status_code == 422, answer.text
        assert "smaller processor_res" in answer.json()["error"]["message"]


def test_masks_that_would_be_ignored_are_refused(url: str, photo: Image.Image) -> None:
    buffer = io.BytesIO()
    photo.save(buffer, "PNG")
    image = base64.b64encode(buffer.getvalue()).decode()
    unit = {"model": "edges", "module": "inpaint_only", "image": image, "mask": image}
    asked = {
        "/sdapi/v1/txt2img": NEVER | {"alwayson_scripts": {"controlnet": {"args": [unit]}}},
        "/controlnet/detect": {
            "controlnet_module": "canny",
            "controlnet_input_images": [image],
            "controlnet_masks": [image],
        },
    }
    fields = [httpx2.post(f"{url}{path}", json=values).json()["error"]["field"] for path, values in asked.items()]
    assert fields == ["alwayson_scripts.controlnet.args.0.mask", "controlnet_masks"]


def test_interrupt_ends_what_is_drawn(url: str, api: webuiapi.WebUIApi) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(api.txt2img, prompt="x", steps=100, batch_size=8, **SIZE)
        until = time.monotonic() + 60
        while api.get_progress()["state"]["sampling_step"] < 1 and time.monotonic() < until:
            time.sleep(0.02)
        seen = api.get_progress()
        api.interrupt()
        result = waiting.result()
    assert seen["state"]["job_count"] == 1
    assert 0 < seen["progress"] < 1
    assert (result.images, result.info["all_seeds"]) == ([], [])


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"enable_hr": True}, "enable_hr"),
        ({"restore_faces": True}, "restore_faces"),
        ({"tiling": True}, "tiling"),
        ({"styles": ["anime"]}, "styles"),
        ({"subseed_strength": 0.5}, "subseed_strength"),
        ({"refiner_checkpoint": "x"}, "refiner_checkpoint"),
        ({"script_name": "x/y/z plot"}, "script_name"),
        ({"alwayson_scripts": {"ADetailer": {"args": [True, {}]}}}, "alwayson_scripts.ADetailer"),
        ({"alwayson_scripts": ["controlnet"]}, "alwayson_scripts"),
        ({"sampler_name": "DPM++ SDE"}, "sampler_name"),
        ({"scheduler": "beta"}, "scheduler"),
        ({"override_settings": {"sd_model_checkpoint": "/etc/passwd"}}, "base"),
        ({"override_settings": {"eta_ddim": 1}}, "override_settings.eta_ddim"),
        ({"prompt": "x <lora:style:0.5>"}, "loras.0"),
        ({"magic": 1}, "magic"),
        ({"batch_size": 5, "n_iter": 2}, "batch_size"),
        ({"steps": 1000}, "steps"),
        ({"seed": -7}, "seed"),
        ({"width": "wide"}, "width"),
        ({"eta": 0.5}, "eta"),
    ],
)
def test_what_is_not_done_is_refused_by_its_name(url: str, values: dict[str, Any], field: str) -> None:
    answer = httpx2.post(f"{url}/sdapi/v1/txt2img", json=NEVER | {"sampler_name": "Euler a"} | values)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["field"] == field


@pytest.mark.parametrize(
    ("unit", "field"),
    [
        ({"model": "edges"}, ".image"),
        ({"model": "None", "image": "x"}, ".model"),
        ({"model": "edges", "module": "dreams"}, ".module"),
        ({"model": "edges", "resize_mode": "Melt"}, ".resize_mode"),
        ({"model": "edges", "image": "x", "weight": 3}, ".image"),
        ({"model": "edges", "advanced_weighting": [1] * 13}, ".advanced_weighting"),
        ("edges", ""),
    ],
)
def test_a_unit_that_is_wrong_is_refused_by_its_place(url: str, unit: Any, field: str) -> None:
    payload = NEVER | {"alwayson_scripts": {"controlnet": {"args": [unit]}}}
    answer = httpx2.post(f"{url}/sdapi/v1/txt2img", json=payload)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["field"] == f"alwayson_scripts.controlnet.args.0{field}"


@pytest.mark.parametrize("path", ["/sdapi/v1/extra-single-image", "/sdapi/v1/interrogate", "/controlnet/txt2img"])
def test_a_route_that_is_not_there_says_so(url: str, path: str) -> None:
    answer = httpx2.post(f"{url}{path}", json={})
    assert answer.status_code == 404
    assert "is not supported here" in answer.json()["error"]["message"]


def test_sd_backend_client_finds_out_what_there_is(service: A1111Webservice) -> None:
    can = service.get_capabilities()
    assert (can.controlnet, can.scheduler, can.interrogate, can.ultimate_upscale) == (True, True, False, False)
    assert "tiny" in [one.name for one in service.list_checkpoints()]
    assert "euler_ancestral" in [one.name for one in service.list_samplers()]
    assert {"normal", "karras"} <= {one.name for one in service.list_schedulers()}
    assert "edges" in [one.full_model_name for one in service.list_controlnet_models()]
    assert "canny" in [one.name for one in service.get_controlnet_preprocessors()]
    assert "Canny" in service.get_controlnet_type_categories()
    assert service.list_upscalers() == service.list_loras() == service.list_vaes() == []
    service.set_config({"sd_model_checkpoint": "tiny"})


def test_sd_backend_client_draws_with_a_unit(service: A1111Webservice, photo: Image.Image) -> None:
    (canny,) = [one for one in service.get_controlnet_preprocessors() if one.name == "canny"]
    how = PreprocessorParams(typedef=canny)
    unit = ControlNetUnit(image=photo, preprocessor=how, model=ControlNetModel("edges"), control_strength=0.8)
    body = DiffusionRequestBody(prompt="x", seed=4, steps=2, batch_size=2, controlnet_units=[unit], **SIZE)
    result = service.submit_txt2img(body).wait()
    assert (len(result.images), result.seeds, len(result.control_maps)) == (2, [4, 5], 1)
    start = fit(photo, 64, 64)
    changed = DiffusionRequestBody(prompt="x", seed=4, steps=4, init_images=[start], sd_model_name="tiny", **SIZE)
    assert len(service.submit_img2img(changed).wait().images) == 1
    preview = service.submit_preprocessor_preview(photo, PreprocessorParams(typedef=canny)).wait()
    assert preview.images[0].width % 64 == 0


def test_a_token_is_the_password_of_these_clients(tmp_path: Any, settings_at: Callable[..., Settings]) -> None:
    settings = settings_at(tmp_path / "data", token="a-token-that-is-long")
    with listening("127.0.0.1", 0) as made:
        server = uvicorn_server(create_app(settings), settings)
        thread = Thread(target=server.run, kwargs={"sockets": [made]})
        thread.start()
        url = f"http://127.0.0.1:{made.getsockname()[1]}/sdapi/v1"
        api = webuiapi.WebUIApi(baseurl=url, username="me", password="a-token-that-is-long")
        assert api.has_controlnet
        assert webuiapi.WebUIApi(baseurl=url, username="me", password="wrong").has_controlnet is False
        server.should_exit = True
        thread.join()


def test_info_has_every_field_that_a_strict_client_reads(url: str) -> None:
    from sd_backend_client.api.webui.response_formats import GenerationInfoData, ProgressResponseBody

    answer = httpx2.post(f"{url}/sdapi/v1/txt2img", json=NEVER | {"send_images": False}).json()
    assert answer["images"] == []
    info = GenerationInfoData.model_validate(json.loads(answer["info"]))
    assert (info.width, info.batch_size) == (64, 1)
    ProgressResponseBody.model_validate(httpx2.get(f"{url}/sdapi/v1/progress").json())
