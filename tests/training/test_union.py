"""Training several kinds of condition in one control, a union, by the one trainer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tether.base import Base, load_base
from tether.cli import app
from tether.control import ControlNet, UnionControlNet, load_control
from tether.datasets.prepare import Preparation
from tether.datasets.synthetic import builtin
from tether.errors import TetherError
from tether.training.config import TrainConfig
from tether.training.data import open_data
from tether.training.packed import PackedBatches
from tether.training.rota import Rota
from tether.training.run import train
from tether.training.start import open_start

from .small import config

KINDS = ("canny", "depth", "openpose", "inpaint")
ROWS, EXACT = 12, 5


@pytest.fixture
def scenes(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(builtin, "SCENES", 12)
    return "scenes"


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """Rows of random images, of which the last five have exact maps; no person is in the last but one."""
    rng = np.random.default_rng(0)
    maps = rng.integers(1, 256, (EXACT, 64, 64, 3), dtype=np.uint8)
    poses = maps.copy()
    poses[-2] = 0
    path = tmp_path / "packed.npz"
    np.savez(
        path,
        latents=rng.normal(size=(ROWS, 4, 8, 8)).astype(np.float16),
        captions=np.array(json.dumps([[f"row {row}"] for row in range(ROWS)])),
        counts=np.array(json.dumps({"drawn": ROWS - EXACT, "scenes": EXACT})),
        images=rng.integers(0, 256, (ROWS, 64, 64, 3), dtype=np.uint8),
        maps_depth=maps,
        maps_openpose=poses,
    )
    return path


def batches_of(packed: Path, base: Base, kinds: tuple[str, ...] = KINDS, randomness: str = "batch") -> PackedBatches:
    rota = Rota(kinds, seed=3)
    return PackedBatches(packed, base, seed=3, randomness=randomness, rota=rota, tell_kinds=True)


def test_a_list_of_kinds_is_a_union(tmp_path: Path) -> None:
    for condition in ("canny,depth", ["canny", "depth"]):
        settings = TrainConfig.of({"out": tmp_path, "condition": condition})
        assert (settings.family, settings.kinds) == ("union", ("canny", "depth"))
    assert TrainConfig.of({"out": tmp_path}).family == "controlnet"
    assert TrainConfig.of({"out": tmp_path, "condition": "lines,pose,mine"}).kinds == ("mlsd", "openpose", "mine")
    with pytest.raises(TetherError, match="several need family: union"):
        TrainConfig.of({"out": tmp_path, "condition": ["canny", "depth"], "family": "controlnet"})
    with pytest.raises(TetherError, match="condition must name a kind"):
        TrainConfig.of({"out": tmp_path, "condition": []})


def test_a_kind_is_meant_by_any_of_its_names(tmp_path: Path) -> None:
    """Sources and judges are asked for exact conditions by the kind's own name."""
    asked = {"pose": "openpose", "segmentation": "seg", "lines": "mlsd", "cutout": "mask", "mine": "mine"}
    for name, own in asked.items():
        assert TrainConfig.of({"out": tmp_path, "condition": name}).condition == own
        assert Preparation(name).condition == own


def test_an_image_that_is_held_back_for_one_kind_is_trained_on_with_none(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(builtin, "SCENES", 60)
    kinds = ("canny", "depth", "openpose")
    settings = {"condition": list(kinds), "validation_images": 7, "crops": 1}
    data = open_data(config(tmp_path, tiny_folder, Path("scenes"), **settings), load_base(tiny_folder))
    images = {}
    for kind, batches in data.batches.kinds.items():
        view = batches.samples.view
        images[kind] = {view.usable[k] for k in batches.entries}
        assert len(images[kind]) == len(view) - len(view.apart)
    held = [set(range(60)) - images["canny"], set(range(60)) - images["depth"]]
    assert held[0] == held[1]
    assert 3 <= len(held[0]) <= 7
    assert not images["openpose"] & held[0]


def test_a_union_is_trained_resumed_and_opened(
    tiny_folder: Path, scenes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    settings = {"crops": 1, "validation_every": 2, "validation_images": 4, "validation_steps": 2, "trackers": "[]"}
    settings |= {"precision": "no", "device": "cpu", "checkpoint_every": 1, "ema": 0.9}
    flags = [text for name, value in settings.items() for text in ("--set", f"{name}={value}")]
    command = ["train", "--data", scenes, "--condition", ",".join(KINDS), "--base", str(tiny_folder), "--out", str(out)]
    for steps in (1, 2):
        arguments = [*command, "--batch-size", "4", "--steps", str(steps), *flags]
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert "conditions: annotated (canny), exact (scenes), annotated (inpaint)" in result.stderr
    opened = load_control(out)
    assert isinstance(opened, UnionControlNet)
    assert opened.kinds == KINDS
    assert isinstance(load_control(f"{out}:openpose"), ControlNet)


def test_samples_of_a_source_show_the_kinds_in_turn_each_by_its_own_rules(
    tiny_folder: Path, scenes: str, tmp_path: Path
) -> None:
    settings = config(tmp_path, tiny_folder, Path(scenes), condition=KINDS, validation_every=0, crops=2)
    data = open_data(settings, load_base(str(tiny_folder)))
    rota = Rota(KINDS, settings.seed)
    batch = data.batches(range(8))
    assert list(batch.kinds) == [rota(number).kind for number in range(8)]
    for k, kind in enumerate(batch.kinds):
        lowest = float(batch.conditions[k].min())
        assert lowest == -1 if kind == "inpaint" else lowest >= 0
    again = open_data(settings, load_base(str(tiny_folder))).batches(range(8))
    assert torch.equal(again.conditions, batch.conditions)
    assert torch.equal(again.latents, batch.latents)


def test_a_source_with_conditions_of_its_own_is_refused(tiny_folder: Path, tmp_path: Path, circles: Path) -> None:
    settings = config(tmp_path, tiny_folder, circles, condition=("canny", "tile"))
    with pytest.raises(TetherError, match=r"one kind of condition|built for the condition"):
        train(settings)


@pytest.mark.parametrize("randomness", ["batch", "sample"])
def test_packed_samples_have_the_condition_of_their_kind(packed: Path, tiny_base: Base, randomness: str) -> None:
    batch = batches_of(packed, tiny_base, randomness=randomness)(range(32, 64))
    with np.load(packed) as file:
        latents, images = torch.from_numpy(file["latents"]).float(), torch.from_numpy(file["images"])
        maps = {kind: torch.from_numpy(file[f"maps_{kind}"]) for kind in ("depth", "openpose")}
    assert list(batch.kinds) == [Rota(KINDS, seed=3)(number).kind for number in range(32, 64)]
    for k, (row, kind) in enumerate(zip(batch.rows, batch.kinds, strict=True)):
        assert torch.equal(batch.latents[k], latents[row])
        assert batch.captions[k] in ("", f"row {row}")
        found = batch.conditions[k].permute(1, 2, 0)
        if kind in maps:
            assert row >= ROWS - EXACT
            torch.testing.assert_close(found, maps[kind][row - ROWS + EXACT] / 255)
        elif kind == "inpaint":
            kept = found >= 0
            torch.testing.assert_close(found[kept], (images[row] / 255)[kept])
            assert 0.05 <= 1 - kept.float().mean() <= 0.6
        else:
            assert found.unique().tolist() == [0, 1]


def test_packed_rows_whose_map_is_empty_are_not_shown(packed: Path, tiny_base: Base) -> None:
    batches = batches_of(packed, tiny_base, kinds=("openpose",))
    shown = {row for k in range(8) for row in batches(range(8 * k, 8 * k + 8)).rows}
    assert shown == {7, 8, 9, 11}


def test_packed_samples_are_a_function_of_their_numbers(packed: Path, tiny_base: Base) -> None:
    first, again = (batches_of(packed, tiny_base)(range(16, 24)) for _ in range(2))
    assert torch.equal(first.conditions, again.conditions)
    assert (first.rows, first.captions, list(first.kinds)) == (again.rows, again.captions, list(again.kinds))


def test_a_kind_that_nothing_shows_is_refused_by_name(packed: Path, tiny_base: Base) -> None:
    with pytest.raises(TetherError, match="no conditions of the kind normal"):
        batches_of(packed, tiny_base, kinds=("canny", "normal"))


def test_a_packed_file_of_edges_has_one_kind(packed: Path, tiny_base: Base, tmp_path: Path) -> None:
    with np.load(packed) as file:
        arrays = {name: file[name] for name in ("latents", "captions", "counts")}
    np.savez(tmp_path / "edges.npz", edges=np.zeros((ROWS, 1, 64, 8), np.uint8), **arrays)
    with pytest.raises(TetherError, match=r"needs? a file with images"):
        batches_of(tmp_path / "edges.npz", tiny_base)


def test_a_union_starts_from_a_control_of_one_kind(tiny_folder: Path, scenes: str, tmp_path: Path) -> None:
    base = load_base(str(tiny_folder))
    torch.manual_seed(1)
    before = ControlNet.from_base(base)
    for parameter in before.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    before.save(tmp_path / "canny")
    start = {"condition": ("canny", "depth"), "start_from": str(tmp_path / "canny")}
    _, control = open_start(config(tmp_path, tiny_folder, Path(scenes), **start))
    assert isinstance(control, UnionControlNet)
    for kind in ("canny", "depth"):
        for name, tensor in control.of_kind(kind).state_dict().items():
            assert torch.equal(tensor, before.state_dict()[name])


def test_the_kinds_of_a_batch_show_images_of_their_own(tiny_folder: Path, scenes: str, tmp_path: Path) -> None:
    settings = config(tmp_path, tiny_folder, Path(scenes), condition=("canny", "depth"), validation_every=0)
    data = open_data(settings, load_base(tiny_folder))
    names = [data.batches(range(start, start + 2)).names for start in range(0, 12, 2)]
    assert sum(one == other for one, other in names) < len(names) / 2


def test_the_shipped_unions_recipe_is_valid_and_trains_the_kinds_that_ship() -> None:
    recipe = TrainConfig.load(Path(__file__).parents[2] / "recipes" / "control-union.yaml")
    shipped = load_control("union")
    assert set(shipped.kinds) == set(recipe.kinds)
    assert recipe.batch_size % len(recipe.turns) == 0
