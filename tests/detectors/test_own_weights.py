"""Detectors with the user's own weights, on tiny random models: shapes, ranges and conventions, not quality."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tether.detectors import depth, pretrained, sketch, use
from tether.detectors.depth import nearness
from tether.detectors.pretrained import prepared
from tether.errors import TetherError
from tether.kinds import annotate
from tether.kinds.ade20k import COLORS


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TETHER_DETECTORS", str(tmp_path / "store"))
    pretrained._opened.cache_clear()
    sketch._opened.cache_clear()


@pytest.fixture
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8))


def save(model: torch.nn.Module, folder: Path, **settings: object) -> Path:
    model.save_pretrained(folder)  # type: ignore[operator]
    if settings:
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def glpn(tmp_path: Path) -> Path:
    """A model of distances in meters."""
    from transformers import GLPNConfig, GLPNForDepthEstimation

    torch.manual_seed(0)
    config = GLPNConfig(
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 1, 1],
        decoder_hidden_size=8,
        sr_ratios=[8, 4, 2, 1],
    )
    return save(GLPNForDepthEstimation(config), tmp_path / "glpn", size_divisor=32)


def segformer(folder: Path, labels: int) -> Path:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(0)
    config = SegformerConfig(
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 1, 1],
        decoder_hidden_size=8,
        num_labels=labels,
    )
    return save(SegformerForSemanticSegmentation(config), folder, size={"height": 64, "width": 64})


def test_depth_is_16_bits_and_the_nearest_point_is_the_brightest(glpn: Path, photo: Image.Image) -> None:
    use("depth", str(glpn))
    map_ = annotate("depth", photo)
    assert (map_.mode, map_.size) == ("I;16", photo.size)
    values = np.asarray(map_)
    assert (values.min(), values.max()) == (0, 65535)
    assert len(np.unique(values)) > 256
    model, settings = pretrained.opened("depth", "AutoModelForDepthEstimation")
    with torch.no_grad():
        meters = model(pixel_values=prepared(np.asarray(photo), settings)).predicted_depth[0].numpy()
    rows, columns = meters.shape
    for place in (meters.argmin(), meters.argmax()):
        y, x = divmod(int(place), columns)
        level = values[min(47, int((y + 0.5) * 48 / rows)), min(79, int((x + 0.5) * 80 / columns))]
        assert (level > 52000) if place == meters.argmin() else (level < 13000)


def test_normals_come_from_depth_and_look_at_the_viewer(glpn: Path, photo: Image.Image) -> None:
    use("depth", str(glpn))
    map_ = np.asarray(annotate("normal", photo)).astype(float) / 127.5 - 1
    assert map_.shape == (48, 80, 3)
    assert map_[..., 2].min() >= -0.01
    assert abs(np.linalg.norm(map_, axis=2) - 1).max() < 0.02


def test_a_blank_image_has_no_depth(glpn: Path) -> None:
    use("depth", str(glpn))
    blank = Image.new("RGB", (40, 30), (90, 80, 70))
    assert not np.asarray(annotate("depth", blank)).any()
    assert (np.asarray(annotate("normal", blank)) == (128, 128, 255)).all()


def test_classes_are_drawn_in_the_colors_of_ade20k(tmp_path: Path, photo: Image.Image) -> None:
    use("seg", str(segformer(tmp_path / "seg", 150)))
    map_ = np.asarray(annotate("seg", photo, "ade20k"))
    assert map_.shape == (48, 80, 3)
    assert {tuple(color) for color in map_.reshape(-1, 3)} <= {tuple(color) for color in COLORS}
    model, settings = pretrained.opened("seg", "AutoModelForSemanticSegmentation")
    with torch.no_grad():
        logits = model(pixel_values=prepared(np.asarray(photo), settings)).logits
    enlarged = torch.nn.functional.interpolate(logits, (48, 80), mode="bilinear")[0].argmax(0).numpy()
    assert (COLORS[enlarged] == map_).all(axis=2).mean() > 0.99


def test_models_of_other_kinds_or_classes_are_refused_in_one_line(
    tmp_path: Path, glpn: Path, photo: Image.Image
) -> None:
    use("seg", str(segformer(tmp_path / "seg", 19)))
    with pytest.raises(TetherError, match="has 19 classes: expected the 150 of ADE20K"):
        annotate("seg", photo, "ade20k")
    (tmp_path / "empty").mkdir()
    use("depth", str(tmp_path / "empty"))
    with pytest.raises(TetherError, match=r"has no config.json: expected a depth estimation model"):
        annotate("depth", photo)
    (glpn / "model.safetensors").write_bytes(b"\0" * 30)
    use("depth", str(glpn))
    with pytest.raises(TetherError, match="cannot be opened as a depth estimation model") as caught:
        annotate("depth", photo)
    assert "\n" not in str(caught.value)
    use("depth", str(tmp_path / "seg"))
    with pytest.raises(TetherError, match="cannot be opened as a depth estimation model"):
        annotate("depth", photo)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_line_art_is_the_inverted_drawing_of_the_network(tmp_path: Path, photo: Image.Image, suffix: str) -> None:
    torch.manual_seed(0)
    network = sketch.Sketch().eval()
    path = tmp_path / f"sk_model{suffix}"
    torch.save(network.state_dict(), path) if suffix == ".pth" else save_file(network.state_dict(), path)
    use("lineart", str(path))
    map_ = np.asarray(annotate("lineart", photo, "sketch"))
    with torch.no_grad():
        drawn = network(torch.from_numpy(np.asarray(photo).copy()).permute(2, 0, 1)[None].float() / 255)
    assert abs(map_[..., 0] - 255 * (1 - drawn[0, 0].numpy())).max() <= 1
    assert np.asarray(annotate("lineart", photo.crop((0, 0, 33, 7)), "sketch")).shape == (7, 33, 3)
    names = set(network.state_dict())
    assert {"model0.1.weight", "model1.0.weight", "model1.3.weight", "model2.2.conv_block.5.bias"} <= names
    assert {"model3.0.weight", "model3.3.weight", "model4.1.weight"} <= names


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({}, (512, 512)),
        ({"size": 96}, (96, 96)),
        ({"size": {"height": 64, "width": 96}}, (64, 96)),
        ({"size": {"shortest_edge": 24}}, (24, 40)),
        ({"size": {"height": 70, "width": 70}, "keep_aspect_ratio": True, "ensure_multiple_of": 14}, (42, 70)),
        ({"size_divisor": 32, "do_normalize": True}, (32, 64)),
        ({"do_resize": False}, (48, 80)),
    ],
)
def test_images_are_resized_as_the_settings_say(settings: dict, size: tuple[int, int]) -> None:
    pixels = np.full((48, 80, 3), 255, np.uint8)
    x = prepared(pixels, settings)
    assert tuple(x.shape) == (1, 3, *size)
    assert torch.allclose(x[0, :, 0, 0], torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]))
    plain = prepared(pixels, settings | {"do_normalize": False, "do_rescale": False})
    assert (plain == 255).all()


def test_glpn_sees_values_from_0_to_1() -> None:
    """Its own processor never normalizes, and its files do not say so."""
    pixels = np.array([[[0, 0, 0], [255, 255, 255]]] * 2, np.uint8).repeat(32, axis=0).repeat(32, axis=1)
    x = prepared(pixels, {"size_divisor": 32, "do_rescale": True})
    assert (float(x.min()), float(x.max())) == (0, 1)


@pytest.mark.parametrize(
    ("config", "grows_to_the_viewer"),
    [
        ({"model_type": "dpt"}, True),
        ({"model_type": "dpt", "backbone_config": SimpleNamespace(model_type="beit")}, True),
        ({"model_type": "dpt", "backbone_config": SimpleNamespace(model_type="dinov2")}, False),
        ({"model_type": "depth_anything", "depth_estimation_type": "relative"}, True),
        ({"model_type": "depth_anything", "depth_estimation_type": "metric"}, False),
        ({"model_type": "depth_pro"}, True),  # canonical inverse depth; its processor takes 1/x to get meters
        ({"model_type": "zoedepth"}, False),
        ({"model_type": "glpn"}, False),
    ],
)
def test_what_a_model_gives_is_known_by_its_type(
    config: dict, grows_to_the_viewer: bool, monkeypatch: pytest.MonkeyPatch, photo: Image.Image
) -> None:
    given = torch.linspace(1, 4, 48 * 80).reshape(1, 48, 80)

    class Model:
        def __init__(self) -> None:
            self.config = SimpleNamespace(**config)

        def __call__(self, pixel_values: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(predicted_depth=given)

    monkeypatch.setattr(depth, "opened", lambda *_: (Model(), {"do_resize": False}))
    found = nearness(np.asarray(photo))
    assert (found[-1, -1] > found[0, 0]) == grows_to_the_viewer
