"""Every engine draws what PyTorch draws: sets of controls, windows, masks, weightings, image-to-image, inpainting.

In float32 no pixel is off by more than one level; one engine and one base serve all requests, as in a session.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image

import tether
from tether.base import ControlNet
from tether.control import Control, Injection
from tether.control.schedule import parse_strength
from tether.sampling.engines import Engine, engine

from ..tiny import randomize

SIZE = 64


def picture(seed: int) -> Image.Image:
    pixels = torch.randint(256, (SIZE, SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.numpy())


def left_half() -> Image.Image:
    mask = Image.new("L", (SIZE, SIZE))
    mask.paste(255, (0, 0, SIZE // 2, SIZE))
    return mask


def left_mask() -> torch.Tensor:
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., : SIZE // 2] = 1
    return mask


CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "no control": (0, {}),
    "one control": (1, {}),
    "its window ends": (1, {"injections": [Injection(window=(0.0, 0.5))]}),
    "its window begins late": (1, {"injections": [Injection(window=(0.5, 1.0))]}),
    "its strength moves": (1, {"injections": [Injection(parse_strength("0.2@0-0.5,0.9@0.5-1"))]}),
    "at every second step": (1, {"injections": [Injection(every=2)]}),
    "two, weighted, masked": (
        2,
        {"injections": [Injection(0.7, "soft", mask=left_mask()), Injection(0.5, "cfg-rw", window=(0.25, 1.0))]},
    ),
    "on one side of guidance": (1, {"injections": [Injection(sides="conditional")]}),
    "a smaller share on one side": (1, {"injections": [Injection(sides=0.6)]}),
    "guidance in a window": (1, {"guidance_window": (0.0, 0.5)}),
    "no guidance": (1, {"guidance_scale": 1.0}),
    "image to image": (1, {"init": picture(5), "denoising_strength": 0.5}),
    "inpainting": (2, {"init": picture(6), "mask": left_half()}),
    "two images": (1, {"count": 2}),
    "another size": (1, {"size": (SIZE, 2 * SIZE)}),
    "deep features used again": (1, {"deep_every": 2}),
    "deep features and two controls that come and go": (
        2,
        {"deep_every": 4, "deep_skips": 2, "injections": [Injection(window=(0.0, 0.5)), Injection(every=2)]},
    ),
}


def missing(name: str) -> str | None:
    if name == "openvino" and find_spec("openvino") is None:
        return "needs the extra openvino"
    if name == "compile" and not (shutil.which("g++") or shutil.which("clang++")):
        return "needs a C++ compiler"
    return None


@pytest.fixture(scope="module", params=["openvino", pytest.param("compile", marks=pytest.mark.slow)])
def ours(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    why = missing(request.param)
    if why is not None:
        pytest.skip(why)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TETHER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield engine(request.param)


@pytest.fixture(scope="module")
def models(tiny_folder: Path) -> tuple[tether.Base, list[Control]]:
    base, controls = tether.load_base(tiny_folder), []
    for seed in (3, 4):
        torch.manual_seed(seed)
        control = cast(ControlNet, ControlNet.from_unet(base.unet, hint_channels=(4, 4, 8, 8)))
        randomize(control)
        control.kind = "canny"
        controls.append(control)
    return base, controls


@pytest.mark.parametrize("case", CASES)
def test_a_request_gives_pytorchs_picture_to_one_level(
    case: str, ours: Engine, models: tuple[tether.Base, list[Control]]
) -> None:
    count, more = CASES[case]
    base, controls = models
    lines: list[str] = []

    def draw(engine: str | Engine) -> list[Image.Image]:
        pipe = tether.Pipeline(base, controls[:count], engine=engine, notify=lines.append)
        return cast(list[Image.Image], pipe("a cube", [picture(k) for k in range(count)], seed=1, steps=4, **more))

    for found, expected in zip(draw(ours), draw("eager"), strict=True):
        levels = [torch.frombuffer(bytearray(one.tobytes()), dtype=torch.uint8).int() for one in (found, expected)]
        assert (levels[0] - levels[1]).abs().max() <= 1
    stepped_back = [line for line in lines if "eager" in line]
    assert stepped_back == ([] if ours.splits or "deep_every" not in more else ["drawn by eager: deep_every need it"])
