"""A payload of txt2img or img2img -> the values of a native request."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from PIL import Image, ImageChops, ImageFilter

from tether.control.schedule import NUMBER
from tether.images import fit, to_mask, to_rgb
from tether.serving.errors import invalid
from tether.serving.settings import Limits
from tether.serving.uploads import image_bytes, read_image
from tether.serving.webui.names import RESIZE_MODES, choice, plain_name, sampler_values
from tether.serving.webui.units import as_png, control_of, number, whole

__all__ = ["SETTINGS", "Options", "Wanted", "wanted"]

STEPS, GUIDANCE, SIDE, DENOISING, MASK_BLUR = 50, 7.0, 512, 0.75, 4
"""The defaults of that API."""
SETTINGS = ("sd_model_checkpoint", "sd_vae", "CLIP_stop_at_last_layers")
"""The settings that a request may override, and `options` may set."""
OFF = {
    "enable_hr": (False,), "restore_faces": (False,), "tiling": (False,), "subseed_strength": (0,),
    "seed_resize_from_h": (0, -1), "seed_resize_from_w": (0, -1), "styles": ([],), "s_churn": (0,), "s_noise": (1,),
    "s_min_uncond": (0,), "script_name": ("", "None"), "script_args": ([],), "refiner_checkpoint": ("", "None"),
    "firstpass_image": ("",), "infotext": ("",), "comments": ({},), "disable_extra_networks": (False,),
    "include_init_images": (False,), "inpaint_full_res": (False, 0), "inpainting_fill": (1,),
    "initial_noise_multiplier": (1,), "mask_round": (True, False), "latent_mask": ("",),
}  # fmt: skip
"""What Tether does not do: key -> the values that ask for nothing of it, besides null."""
OF_MASKS = ("inpaint_full_res", "inpainting_fill", "mask_round")
"""Keys that mean nothing without a mask."""
WITHOUT_EFFECT = {
    "subseed", "s_tmin", "s_tmax", "hr_scale", "hr_upscaler", "hr_second_pass_steps", "hr_resize_x", "hr_resize_y",
    "hr_checkpoint_name", "hr_sampler_name", "hr_scheduler", "hr_prompt", "hr_negative_prompt", "hr_cfg",
    "hr_additional_modules", "hr_distilled_cfg", "firstphase_width", "firstphase_height", "refiner_switch_at",
    "do_not_save_samples", "do_not_save_grid", "save_images", "override_settings_restore_afterwards",
    "image_cfg_scale", "force_task_id", "inpaint_full_res_padding", "distilled_cfg_scale", "url", "auth",
}  # fmt: skip
"""Keys of what is off anyway, of where files are kept, which the server's operator decides, and of how a client reaches
the server."""
TAKEN = {
    "prompt", "negative_prompt", "seed", "sampler_name", "sampler_index", "scheduler", "batch_size", "n_iter", "steps",
    "cfg_scale", "width", "height", "eta", "override_settings", "alwayson_scripts", "send_images", "clip_skip",
}  # fmt: skip
TAKEN_OF_IMAGES = {
    "init_images", "resize_mode", "denoising_strength", "mask", "mask_blur", "mask_blur_x", "mask_blur_y",
    "inpainting_mask_invert",
}  # fmt: skip
_LORA = re.compile(rf"<lora:([^:<>]+)(?::(-?{NUMBER}))?(?::[^<>]*)?>")


@dataclass
class Options:
    """The settings of that API, for all its clients; they last as long as the process.

    Attributes:
        base: the name of the base; None for the server's own.
        vae: of an autoencoder; None for the base's own.
        clip_skip: as in a native request.
    """

    base: str | None = None
    vae: str | None = None
    clip_skip: int = 0

    def with_settings(self, settings: Any, where: str) -> Options:
        """These, changed by settings by their names there.

        Raises:
            Refused: 422, for another setting.
        """
        if not isinstance(settings, dict):
            raise invalid(where, "expected an object of settings")
        for name in settings:
            if name not in SETTINGS:
                raise invalid(f"{where}.{name}"[:120], f"{name[:60]} is not a setting here: {', '.join(SETTINGS)} are")
        base, vae, clip_skip = self.base, self.vae, self.clip_skip
        if settings.get("sd_model_checkpoint"):
            base = plain_name(str(settings["sd_model_checkpoint"]))
        if settings.get("sd_vae") is not None:
            named = plain_name(str(settings["sd_vae"]))
            vae = None if named.casefold() in ("", "automatic", "none") else named
        if settings.get("CLIP_stop_at_last_layers") is not None:
            clip_skip = whole(settings, "CLIP_stop_at_last_layers", 1, 1, 11, where) - 1
        return Options(base, vae, clip_skip)


@dataclass(frozen=True)
class Wanted:
    """What a payload asks for.

    Attributes:
        values: the JSON of a native request.
        maps: the numbers of the controls whose maps follow the images in the answer.
        send: whether the images are wanted in the answer.
    """

    values: dict[str, Any]
    maps: list[int] = field(default_factory=list)
    send: bool = True


def wanted(payload: dict[str, Any], options: Options, limits: Limits, *, from_image: bool) -> Wanted:
    """Reads a payload; its images are fitted here, because init and units each have a resize mode of their own.

    Args:
        payload: as a client sends it.
        options: the settings of the API.
        limits: of uploads.
        from_image: whether it is of img2img.

    Raises:
        Refused: when a value cannot be right, or asks for what Tether does not do.
    """
    _refuse_what_is_not_done(payload, from_image)
    for name in ("prompt", "negative_prompt"):
        if isinstance(payload.get(name), str) and len(payload[name]) > limits.prompt:
            raise invalid(name, f"{len(payload[name])} characters: the limit is {limits.prompt}")
    if payload.get("clip_skip") is not None:  # what SD.Next calls it
        options = options.with_settings({"CLIP_stop_at_last_layers": payload["clip_skip"]}, "clip_skip")
    options = options.with_settings(payload.get("override_settings") or {}, "override_settings")
    width, height = (whole(payload, side, SIDE, 8, 4096) // 8 * 8 for side in ("width", "height"))
    if width * height > limits.pixels:  # before images are fitted to it
        raise invalid("width", f"{width}x{height} pixels: the limit is {limits.pixels:,}")
    prompt, loras = _prompt(payload)
    count = whole(payload, "batch_size", 1, 1, 1000) * whole(payload, "n_iter", 1, 1, 1000)
    if count > limits.count:
        raise invalid("batch_size", f"batch_size x n_iter is {count}: the limit is {limits.count}")
    seed = whole(payload, "seed", -1, -1, 2**64 - 1)
    values: dict[str, Any] = {
        "prompt": prompt,
        "negative_prompt": str(payload.get("negative_prompt") or ""),
        "count": count,
        "steps": payload.get("steps") if payload.get("steps") is not None else STEPS,
        "guidance_scale": number(payload, "cfg_scale", GUIDANCE, 0, 1000),
        "size": [width, height],
        "seed": None if seed < 0 else seed,
        "clip_skip": options.clip_skip,
        **({} if options.base is None else {"base": options.base}),
        **({} if options.vae is None else {"vae": options.vae}),
        **({} if not loras else {"loras": loras}),
        **_sampler(payload),
    }
    init = None
    if from_image:
        init = _init(payload, limits)
        values |= _image_to_image(payload, init, (width, height), limits)
    units = [unit for unit in _units(payload) if unit[1].get("enabled", True)]
    if len(units) > limits.controls:
        raise invalid("alwayson_scripts", f"{len(units)} units: the limit is {limits.controls}")
    values["controls"] = [control_of(unit, (width, height), init, limits, where) for where, unit in units]
    maps = [k for k, (_, unit) in enumerate(units) if unit.get("save_detected_map", True)]
    return Wanted(values, maps, payload.get("send_images", True) is not False)


def _refuse_what_is_not_done(payload: dict[str, Any], from_image: bool) -> None:
    taken = TAKEN | WITHOUT_EFFECT | ({"denoising_strength"} if not from_image else TAKEN_OF_IMAGES)
    for name, value in payload.items():
        if value is None or name in taken:
            continue
        if name not in OFF:
            raise invalid(name[:80], f"{name[:60]} is not supported: leave it out")
        if value not in OFF[name] and not (name in OF_MASKS and not payload.get("mask")):
            raise invalid(name, f"{name} is not supported: leave it out")


def _prompt(payload: dict[str, Any]) -> tuple[str, list[str]]:
    """The prompt without its LoRA tags, and the LoRA."""
    prompt = payload.get("prompt") or ""
    if not isinstance(prompt, str):
        raise invalid("prompt", "expected a text")
    loras = [f"{name.strip()}:{weight or 1}" for name, weight in _LORA.findall(prompt)]
    return (re.sub(r"\s+", " ", _LORA.sub("", prompt)).strip() if loras else prompt), loras


def _sampler(payload: dict[str, Any]) -> dict[str, Any]:
    """Sampler, schedule and eta, which there is 1 for ancestral samplers and has no effect on most others."""
    values = sampler_values(payload.get("sampler_name") or payload.get("sampler_index"), payload.get("scheduler"))
    eta = payload.get("eta")
    if eta is None:
        return values
    share = number(payload, "eta", 0, 0, 1)
    if values["scheduler"] == "ddim":
        values["eta"] = share
    elif values["scheduler"] == "euler-a" and share != 1:
        raise invalid("eta", "Euler a adds all of its noise here: leave eta out, or give 1")
    return values


def _init(payload: dict[str, Any], limits: Limits) -> Image.Image:
    images = payload.get("init_images")
    if not isinstance(images, list) or len(images) != 1:
        found = len(images) if isinstance(images, list) else 0
        raise invalid("init_images", f"{found} images: expected one")
    return read_image(image_bytes(images[0], "init_images.0"), "init_images.0", limits.upload_pixels)


def _image_to_image(
    payload: dict[str, Any], init: Image.Image, size: tuple[int, int], limits: Limits
) -> dict[str, Any]:
    """The fields of image-to-image and inpainting."""
    rule = choice(payload.get("resize_mode") or 0, RESIZE_MODES, "resize_mode")
    strength = number(payload, "denoising_strength", DENOISING, 0, 1)
    values = {"init": as_png(fit(to_rgb(init), *size, rule)), "denoising_strength": strength}
    if not payload.get("mask"):
        return values
    mask = to_mask(read_image(image_bytes(payload["mask"], "mask"), "mask", limits.upload_pixels))
    if payload.get("inpainting_mask_invert"):
        mask = ImageChops.invert(mask)
    return values | {"mask": as_png(fit(_blurred(mask, payload), *size, rule))}


def _blurred(mask: Image.Image, payload: dict[str, Any]) -> Image.Image:
    """A mask with soft edges; the standard deviation of each direction in pixels of the mask."""
    both = payload.get("mask_blur")
    names = ("mask_blur", "mask_blur") if both is not None else ("mask_blur_x", "mask_blur_y")
    radii = [number(payload, name, MASK_BLUR, 0, 64) for name in names]
    return mask.filter(ImageFilter.GaussianBlur((radii[0], radii[1]))) if any(radii) else mask


def _units(payload: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The units of the ControlNet extension, with their places.

    Raises:
        Refused: 422, for other scripts that are on.
    """
    scripts = payload.get("alwayson_scripts") or {}
    if not isinstance(scripts, dict):
        raise invalid("alwayson_scripts", "expected an object")
    units: list[tuple[str, dict[str, Any]]] = []
    for name, script in scripts.items():
        where = f"alwayson_scripts.{name[:60]}"
        arguments = script.get("args", []) if isinstance(script, dict) else script
        if not isinstance(arguments, (list, dict)):
            raise invalid(where, "expected an object with a list args")
        if name.casefold() != "controlnet":
            if arguments and (isinstance(arguments, dict) or arguments[0] is not False):
                raise invalid(where, f"the script {name[:60]!r} is not supported: leave it out")
            continue
        listed = list(arguments.values()) if isinstance(arguments, dict) else arguments
        for index, unit in enumerate(listed):
            if not isinstance(unit, dict):
                raise invalid(f"{where}.args.{index}", f"expected a unit as an object, not a {type(unit).__name__}")
            units.append((f"{where}.args.{index}", unit))
    return units
