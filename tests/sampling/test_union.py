"""Drawing with the kinds of a union: each is a control of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tether.base import Base
from tether.control import UnionControlNet
from tether.errors import TetherError
from tether.sampling import ControlRequest, Request, Session


@pytest.fixture
def union(tiny_base: Base, tmp_path: Path) -> str:
    torch.manual_seed(0)
    control = UnionControlNet.from_base(tiny_base, kinds=("canny", "depth"))
    for name, parameter in control.named_parameters():
        if name.startswith(("kind_embedding", "controlnet_")):
            torch.nn.init.normal_(parameter, std=0.05)
    control.save(tmp_path / "union")
    for kind in control.kinds:
        control.of_kind(kind).save(tmp_path / kind)
    return str(tmp_path / "union")


@pytest.fixture
def request_of(tiny_folder: Path) -> Any:
    def make(*controls: ControlRequest) -> Request:
        return Request(prompt="a cube", base=str(tiny_folder), steps=2, controls=list(controls))

    return make


def image(color: tuple[int, int, int]) -> Image.Image:
    made = Image.new("RGB", (64, 64), (30, 30, 30))
    made.paste(color, (20, 20, 50, 50))
    return made


def drawn(request: Request) -> bytes:
    (made,) = Session().run(request)
    return made.image.tobytes()


def test_two_kinds_of_one_union_draw_as_the_two_controls_that_they_are(
    request_of: Any, union: str, tmp_path: Path
) -> None:
    ways: dict[str, dict[str, Any]] = {
        "canny": {"photo": image((220, 60, 60)), "strength": 0.7},
        "depth": {"condition": image((200, 200, 200)), "window": (0.0, 0.5), "mask": image((255, 255, 255))},
    }
    together = request_of(*(ControlRequest(ref=f"{union}:{kind}", **how) for kind, how in ways.items()))
    apart = request_of(*(ControlRequest(ref=str(tmp_path / kind), **how) for kind, how in ways.items()))
    alone = request_of(ControlRequest(ref=f"{union}:canny", **ways["canny"]))
    assert drawn(together) == drawn(apart)
    assert drawn(together) != drawn(alone)


def test_a_union_whose_kind_is_not_named_says_which_there_are(request_of: Any, union: str) -> None:
    for what in ("photo", "condition"):
        how: dict[str, Any] = {what: image((220, 60, 60))}
        with pytest.raises(TetherError, match=r"several kinds \(canny, depth\): name one, as in .*union:canny"):
            Session().prepare(request_of(ControlRequest(ref=union, **how)))
