"""The bodies of that API, for the OpenAPI document. They are read by `payload` and `units`, which check them."""

from __future__ import annotations

from typing import Any

from tether.serving.webui.names import CONTROL_MODES, RESIZE_MODES, SAMPLERS, SCHEDULES

__all__ = ["DETECT", "IMG2IMG", "OPTIONS", "PNG_INFO", "TXT2IMG"]

TEXT: dict[str, Any] = {"type": "string"}
WHOLE: dict[str, Any] = {"type": "integer"}
NUMBER: dict[str, Any] = {"type": "number"}
SWITCH: dict[str, Any] = {"type": "boolean"}
IMAGE: dict[str, Any] = {"type": "string", "contentEncoding": "base64"}


def _object(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, **more}


def _range(kind: dict[str, Any], least: float, most: float | None = None) -> dict[str, Any]:
    return kind | {"minimum": least} | ({} if most is None else {"maximum": most})


def _named(options: Any) -> dict[str, Any]:
    """One of some options, by its name or its number."""
    names = [name for name, _ in options]
    return {"anyOf": [{"enum": names}, _range(WHOLE, 0, len(names) - 1)]}


OPTIONS = _object(
    {"sd_model_checkpoint": TEXT, "sd_vae": TEXT, "CLIP_stop_at_last_layers": _range(WHOLE, 1, 11)},
    additionalProperties=False,
)
_UNIT = _object(
    {
        "enabled": SWITCH,
        "module": TEXT,
        "model": TEXT,
        "weight": _range(NUMBER, 0, 2),
        "image": {"anyOf": [IMAGE, _object({"image": IMAGE, "mask": IMAGE})]},
        "mask": IMAGE,
        "resize_mode": _named(RESIZE_MODES),
        "control_mode": _named(CONTROL_MODES),
        "processor_res": _range(WHOLE, -1, 2048),
        "threshold_a": NUMBER,
        "threshold_b": NUMBER,
        "guidance_start": _range(NUMBER, 0, 1),
        "guidance_end": _range(NUMBER, 0, 1),
        "pixel_perfect": SWITCH,
        "save_detected_map": SWITCH,
        "effective_region_mask": IMAGE,
    },
    required=["model"],
)
TXT2IMG = _object(
    {
        "prompt": TEXT,
        "negative_prompt": TEXT,
        "seed": _range(WHOLE, -1, 2**64 - 1),
        "sampler_name": {"enum": list(SAMPLERS)},
        "scheduler": {"enum": list(SCHEDULES)},
        "steps": _range(WHOLE, 1),
        "cfg_scale": _range(NUMBER, 0, 1000),
        "width": _range(WHOLE, 8, 4096),
        "height": _range(WHOLE, 8, 4096),
        "batch_size": _range(WHOLE, 1),
        "n_iter": _range(WHOLE, 1),
        "eta": _range(NUMBER, 0, 1),
        "send_images": SWITCH,
        "override_settings": OPTIONS,
        "alwayson_scripts": _object({"controlnet": _object({"args": {"type": "array", "items": _UNIT}})}),
    },
)
IMG2IMG = _object(
    TXT2IMG["properties"]
    | {
        "init_images": {"type": "array", "items": IMAGE, "minItems": 1, "maxItems": 1},
        "resize_mode": _named(RESIZE_MODES),
        "denoising_strength": _range(NUMBER, 0, 1),
        "mask": IMAGE,
        "mask_blur": _range(WHOLE, 0, 64),
        "inpainting_mask_invert": SWITCH,
    },
    required=["init_images"],
)
PNG_INFO = _object({"image": IMAGE}, required=["image"])
DETECT = _object(
    {
        "controlnet_module": TEXT,
        "controlnet_input_images": {"type": "array", "items": IMAGE, "minItems": 1},
        "controlnet_processor_res": _range(WHOLE, -1, 2048),
        "controlnet_threshold_a": NUMBER,
        "controlnet_threshold_b": NUMBER,
    },
    required=["controlnet_input_images"],
)
