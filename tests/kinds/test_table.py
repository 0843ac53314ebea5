"""The table of kinds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tether.errors import TetherError
from tether.kinds import Kind, annotator_names, find_kind, guess_kind, kind_of, kinds, register, table


@pytest.fixture
def _own_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    ours = dict(kinds())
    monkeypatch.setattr(table, "_table", lambda: ours)


def test_the_table_has_every_kind_that_published_controls_have() -> None:
    assert list(kinds()) == [
        "canny",
        "depth",
        "normal",
        "mlsd",
        "scribble",
        "softedge",
        "lineart-anime",
        "lineart",
        "seg",
        "openpose",
        "inpaint",
        "ip2p",
        "tile",
        "shuffle",
        "keypoints",
        "recolor",
        "blur",
        "invert",
        "mask",
    ]
    without = {"inpaint", "ip2p", "keypoints"}
    assert annotator_names() == sorted(set(kinds()) - without)
    assert {kind.name for kind in kinds().values() if kind.is_image} == {"inpaint", "ip2p", "tile"}
    assert [kind.name for kind in kinds().values() if kind.pools_globally] == ["shuffle"]
    assert [(kind.name, kind.value_range) for kind in kinds().values() if kind.needs_mask] == [("inpaint", (-1.0, 1.0))]
    assert [kind.name for kind in kinds().values() if kind.metric] == ["canny", "scribble"]
    assert all(kind.summary for kind in kinds().values())


def test_the_table_waits_for_neither_pytorch_nor_opencv_nor_numpy() -> None:
    code = "import sys, tether.kinds; tether.kinds.kinds(); assert not {'torch', 'cv2', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("alias", "name"), [("pose", "openpose"), ("lines", "mlsd"), ("segmentation", "seg"), ("cutout", "mask")]
)
def test_a_kind_is_found_by_its_everyday_name(alias: str, name: str) -> None:
    assert kind_of(alias) is kind_of(name) is find_kind(alias)
    assert alias not in kinds()


def test_an_unknown_kind_is_refused_with_a_suggestion() -> None:
    assert kind_of("canny").name == "canny"
    with pytest.raises(TetherError, match="'cany' is not a known kind of condition: did you mean canny"):
        kind_of("cany")
    with pytest.raises(TetherError, match="did you mean segmentation"):
        kind_of("segmentatoin")
    with pytest.raises(TetherError, match="choose one of canny, depth, "):
        kind_of("xyz")


@pytest.mark.parametrize("name", ["mine", "my-canny", "", None])
def test_an_unknown_condition_is_a_kind_with_defaults(name: str | None) -> None:
    kind = find_kind(name)
    assert (kind.resize, kind.metric, kind.value_range) == ("lines", None, (0.0, 1.0))
    assert find_kind("inpaint") is kind_of("inpaint")


@pytest.mark.usefixtures("_own_table")
def test_a_program_registers_a_kind_once() -> None:
    mine = Kind("mine", names="mine")
    register(mine)
    register(mine)
    assert kind_of("mine") is mine
    assert guess_kind("control_mine.pth") == "mine"
    for name in ("mine", "canny"):
        with pytest.raises(TetherError, match=f"there already is a kind of condition '{name}'"):
            register(Kind(name))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("control_sd15_canny.pth", "canny"),
        ("control_v11f1p_sd15_depth.pth", "depth"),
        ("control_v11p_sd15_normalbae.pth", "normal"),
        ("control_v11p_sd15_softedge.pth", "softedge"),
        ("control_sd15_hed.pth", "softedge"),
        ("control_v11p_sd15_scribble.pth", "scribble"),
        ("control_v11p_sd15_mlsd.pth", "mlsd"),
        ("control_v11p_sd15_lineart.pth", "lineart"),
        ("control_v11p_sd15s2_lineart_anime.pth", "lineart-anime"),
        ("control_v11p_sd15_openpose.pth", "openpose"),
        ("control_v11p_sd15_seg.pth", "seg"),
        ("control_v11p_sd15_inpaint.pth", "inpaint"),
        ("control_v11e_sd15_ip2p.pth", "ip2p"),
        ("control_v11e_sd15_shuffle.pth", "shuffle"),
        ("control_v11f1e_sd15_tile.pth", "tile"),
        ("diffusers/controlnet-canny-sdxl-1.0", "canny"),
        ("thibaud/controlnet-sd21-openpose-diffusers", "openpose"),
        ("control_v1p_sd15_recolor.safetensors", "recolor"),
        ("sdxl-controlnet-blur", "blur"),
        ("my-own-control.safetensors", None),
        ("segway.safetensors", None),
    ],
)
def test_the_kind_is_guessed_from_the_names_people_know(name: str, kind: str | None) -> None:
    assert guess_kind(Path(name).name.removesuffix(".pth").removesuffix(".safetensors")) == kind
