"""Networks as data: a file does what it says, a damaged one is refused, shipped ones give what the originals give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from tether.detectors.graph import Network, shipped_network
from tether.errors import TetherError
from tether.weights import shipped

RECORDED = json.loads(Path(__file__).with_name("recorded.json").read_text())
"""What the original of each shipped network gives for `pattern` in its own runtime, by `recipes/detectors.py`."""
INPUTS = {
    "pose_detection": ((1, 3, 224, 224), (-1, 1)),
    "pose_landmark": ((1, 3, 256, 256), (0, 1)),
    "hand_recrop": ((1, 3, 256, 256), (0, 1)),
    "hand_landmark": ((1, 3, 224, 224), (0, 1)),
    "face_landmark": ((1, 3, 192, 192), (0, 1)),
    "mlsd": ((1, 4, 512, 512), (-1, 1)),
    "u2netp": ((1, 3, 320, 320), (-2, 2.5)),
}


def pattern(shape: tuple[int, ...], span: tuple[float, float]) -> np.ndarray:
    """The waves that `recipes/detectors.py` makes."""
    c, y, x = np.mgrid[: shape[1], : shape[2], : shape[3]]
    waves = 0.5 + 0.5 * np.sin(y * (c + 1) / 17 + x / (11 + c))
    return (span[0] + (span[1] - span[0]) * waves)[None].astype(np.float32)


@pytest.mark.parametrize("name", INPUTS)
def test_a_shipped_network_gives_what_the_original_gives(name: str) -> None:
    outputs = shipped_network(name)(torch.from_numpy(pattern(*INPUTS[name])))
    assert len(outputs) == len(RECORDED[name])
    last = name not in ("mlsd", "u2netp")  # TFLite has the channels last
    for ours, theirs in zip(outputs, RECORDED[name], strict=True):
        flat = (ours.permute(0, 2, 3, 1) if last and ours.ndim == 4 else ours).reshape(-1).numpy()
        places = np.linspace(0, flat.size - 1, len(theirs)).round().astype(int)
        found, wanted = flat[places], np.array(theirs)
        # The originals of these are not in half precision.
        allowed = {"mlsd": 2e-2, "u2netp": 2e-2, "hand_recrop": 1e-3}.get(name, 1e-4)
        assert abs(found - wanted).max() <= allowed * max(1, np.abs(wanted).max()), (found, wanted)


def test_the_shipped_networks_are_small() -> None:
    assert sum(path.stat().st_size for path in shipped("detectors").iterdir()) < 22e6
    assert {path.stem for path in shipped("detectors").glob("*.safetensors")} == set(INPUTS)


def write(path: Path, nodes: list, tensors: dict[str, torch.Tensor], outputs: list[str]) -> Path:
    save_file(tensors, path, {"graph": json.dumps({"input": "x", "outputs": outputs, "nodes": nodes})})
    return path


def test_a_graph_is_run_as_written(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weight, bias, slope = torch.randn(4, 3, 3, 3).half(), torch.randn(4).half(), torch.rand(4).half()
    nodes = [
        ["conv", ["x", "w", "b"], "a", {"stride": 2, "pad": [0, 1, 0, 1], "act": "relu6"}],
        ["prelu", ["a", "s"], "p", {}],
        ["max_pool", ["p"], "m", {"size": 2, "stride": 2, "pad": [0, 0, 0, 0]}],
        ["resize", ["m"], "u", {"size": [5, 7], "align": False}],
        ["rows", ["u"], "r", {"columns": 2}],
        ["depth_to_space", ["m"], "d", {"block": 2}],
        ["concat", ["m", "m"], "c", {"axis": 1}],
        ["channels", ["c"], "k", {"start": 3, "end": 5}],
        ["mean", ["k"], "n", {}],
    ]
    path = write(tmp_path / "n.safetensors", nodes, {"w": weight, "b": bias, "s": slope}, ["r", "d", "n", "u"])
    x = torch.randn(1, 3, 16, 20)
    rows, space, mean, resized = Network(path)(x)
    a = F.conv2d(F.pad(x, (0, 1, 0, 1)), weight.float(), bias.float(), stride=2).clamp(0, 6)
    m = F.max_pool2d(F.prelu(a, slope.float()), 2)
    u = F.interpolate(m, (5, 7), mode="bilinear")
    assert torch.allclose(resized, u, atol=1e-5)
    assert torch.allclose(rows, u.permute(0, 2, 3, 1).reshape(1, -1, 2), atol=1e-5)
    assert torch.allclose(mean, torch.cat([m, m], 1)[:, 3:5].mean((2, 3), keepdim=True), atol=1e-5)
    assert space.shape == (1, 1, 8, 10)
    # Channel 2 i + j of a pixel is at row i, column j of its 2 x 2 pixels.
    for i in range(2):
        for j in range(2):
            assert torch.allclose(space[0, 0, i::2, j::2], m[0, 2 * i + j], atol=1e-5)


def test_weights_that_are_mostly_zero_are_unpacked(tmp_path: Path) -> None:
    weight = torch.zeros(8, 3, 1, 1)
    weight[[1, 4, 7], [0, 2, 1]] = torch.tensor([0.5, -2.0, 3.0])[:, None, None]
    used = weight != 0
    tensors = {
        "w.values": weight[used].half(),
        "w.mask": torch.from_numpy(np.packbits(used.numpy())),
        "w.shape": torch.tensor(weight.shape),
    }
    path = write(tmp_path / "n.safetensors", [["conv", ["x", "w"], "y", {}]], tensors, ["y"])
    x = torch.randn(1, 3, 4, 4)
    assert torch.allclose(Network(path)(x)[0], F.conv2d(x, weight), atol=1e-6)


@pytest.mark.parametrize("nodes", [[["eval", ["x"], "y", {}]], [["conv", ["x"]]], "conv"])
def test_a_file_can_do_nothing_but_the_operations(tmp_path: Path, nodes: list) -> None:
    path = write(tmp_path / "n.safetensors", nodes, {"w": torch.zeros(1)}, ["y"])
    with pytest.raises(TetherError, match="is not a network that Tether can run"):
        Network(path)


def test_a_damaged_or_missing_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    save_file({"w": torch.zeros(1)}, tmp_path / "plain.safetensors")
    for name in ("cut", "plain", "missing"):
        with pytest.raises(TetherError, match=f"{name}.safetensors is not a network") as caught:
            Network(tmp_path / f"{name}.safetensors")
        assert "\n" not in str(caught.value)
