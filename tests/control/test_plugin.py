"""Another package adds a control family in one file: trained, saved, recognized, drawn with and taken off again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import tether
from tether.base import Base
from tether.cli import app
from tether.control import Conditioning, Control, control, families, family
from tether.errors import TetherError
from tether.kinds import prepare
from tether.training.batch import Batch
from tether.training.config import TrainConfig
from tether.training.trainer import Trainer

SOURCE = Path(__file__).with_name("toy_adapter.py")


def install(site: Path, package: str, source: str, entry: str) -> None:
    """An installed package as Python sees it: its module, and metadata with an entry point."""
    (site / f"{package}.py").write_text(source)
    info = site / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[tether.controls]\n{entry}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages, with the family "toy-adapter"; forgotten at the end."""
    site = tmp_path / "site"
    site.mkdir()
    install(site, "tether_toy_adapter", SOURCE.read_text(), "toy-adapter = tether_toy_adapter:ToyAdapter")
    families()  # a family of this package registers itself once, when its module is first imported
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(control, "_FAMILIES", dict(control._FAMILIES))
    yield site
    sys.modules.pop("tether_toy_adapter", None)


@pytest.fixture
def condition(tmp_path: Path) -> Path:
    squares = np.random.default_rng(0).integers(0, 2, (8, 8), dtype=np.uint8) * 255
    Image.fromarray(squares).resize((64, 64), Image.Resampling.NEAREST).convert("RGB").save(tmp_path / "map.png")
    return tmp_path / "map.png"


def batches(samples: range) -> Batch:
    """Sample n is drawn by a generator of seed n."""
    each = [torch.Generator().manual_seed(7000 + number) for number in samples]
    return Batch(
        torch.stack([torch.randn(4, 8, 8, generator=g) for g in each]),
        torch.stack([torch.rand(3, 64, 64, generator=g) for g in each]),
        Conditioning(torch.stack([torch.randn(5, 32, generator=g) for g in each])),
        [f"sample {number}" for number in samples],
    )


def train(base: Base, out: Path) -> Control:
    """A new adapter after five steps of the trainer."""
    torch.manual_seed(0)
    adapter = family("toy-adapter").from_base(base)
    settings: dict[str, Any] = {"steps": 5, "batch_size": 2, "learning_rate": 1e-2, "validation_every": 0}
    config = TrainConfig.of(settings | {"out": out, "precision": "no", "device": "cpu", "trackers": ()})
    losses: list[float] = []
    trainer = Trainer(base, adapter, batches, config, on_progress=lambda progress: losses.append(progress.loss))
    assert trainer.fit().step == 5
    assert len(losses) == 5
    with trainer.result() as result:
        trained = deepcopy(result)
    trainer.end()
    return trained


def draw(base: Base, controls: list[Control], conditions: list[Image.Image], **options: Any) -> list[bytes]:
    images = tether.Pipeline(base, controls)("a cube", conditions, steps=3, seed=5, size=(64, 64), **options)
    return [image.tobytes() for image in images]


def test_a_new_family_is_one_file_of_a_hundred_and_twenty_lines():
    assert len(SOURCE.read_text().splitlines()) <= 120


def test_a_family_of_another_package_is_trained_saved_and_drawn_with(
    site: Path, tiny_base: Base, tiny_folder: Path, condition: Path, tmp_path: Path
):
    locked = {name: tensor.clone() for name, tensor in tiny_base.unet.state_dict().items()}
    alone = draw(tiny_base, [], [])
    adapter = train(tiny_base, tmp_path / "run")
    assert all(head.weight.any() for head in adapter.heads)
    assert all(torch.equal(tensor, locked[name]) for name, tensor in tiny_base.unet.state_dict().items())

    adapter.kind = "canny"
    adapter.save(tmp_path / "adapter")
    loaded = tether.load_control(tmp_path / "adapter", base=tiny_base)
    assert (loaded.family, loaded.kind, loaded.config) == ("toy-adapter", "canny", adapter.config)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert all(torch.equal(tensor, adapter.state_dict()[name]) for name, tensor in loaded.state_dict().items())

    map_ = Image.open(condition)
    steered = draw(tiny_base, [loaded], [map_])
    assert steered != alone
    assert draw(tiny_base, [adapter], [map_]) == steered
    assert draw(tiny_base, [loaded], [map_], injections=[tether.Injection(strength=0)]) == alone
    assert draw(tiny_base, [], []) == alone

    edges = prepare(map_, "canny", (64, 64)).condition
    for option, expected in (("--condition", steered), ("--control", draw(tiny_base, [loaded], [edges]))):
        arguments = ["generate", "a cube", "--base", tiny_folder, option, f"{tmp_path / 'adapter'}={condition}"]
        options = ["--steps", 3, "--seed", 5, "-o", tmp_path / "out"]
        result = CliRunner().invoke(app, [str(one) for one in arguments + options], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        (path,) = result.stdout.splitlines()
        assert [Image.open(path).convert("RGB").tobytes()] == expected


def test_the_adapter_is_run_once_and_also_together_with_a_control_net(site: Path, tiny_base: Base, condition: Path):
    adapter = family("toy-adapter").from_base(tiny_base)
    net = family("controlnet").from_base(tiny_base)
    torch.manual_seed(0)
    for parameter in (*adapter.heads.parameters(), *net.controlnet_down_blocks.parameters()):
        torch.nn.init.normal_(parameter, std=0.1)
    calls = []
    adapter.register_forward_hook(lambda *_: calls.append(1))
    map_ = Image.open(condition)
    both = draw(tiny_base, [adapter, net], [map_, map_])
    assert len(calls) == 1
    assert (
        len({*both, *draw(tiny_base, [adapter], [map_]), *draw(tiny_base, [net], [map_]), *draw(tiny_base, [], [])})
        == 4
    )


def test_a_control_for_other_blocks_is_refused(site: Path, tiny_base: Base):
    cls = family("toy-adapter")
    other = cls([("block.0", 32, 2), ("block.1", 48, 4)])
    with pytest.raises(TetherError, match=r"adds 48 channels at block\.1, but base .* has 64"):
        other.check_fits(tiny_base)
    with pytest.raises(TetherError, match=r"adds 8 channels at block\.9, but base .* has no such point"):
        cls([("block.9", 8, 1)]).check_fits(tiny_base)


def test_damaged_folders_are_refused_in_one_line(site: Path, tiny_base: Base, tmp_path: Path):
    adapter = family("toy-adapter").from_base(tiny_base)
    adapter.save(tmp_path / "a")
    with pytest.raises(TetherError, match="expected a ControlNet, found a control of family 'toy-adapter'"):
        tether.ControlNet.load(tmp_path / "a")
    config = (tmp_path / "a" / "config.json").read_text()
    (tmp_path / "a" / "config.json").write_text(config.replace('"width": 16', '"width": 24'))
    with pytest.raises(TetherError, match="expected"):
        tether.load_control(tmp_path / "a")
    (tmp_path / "a" / "config.json").write_text(config.replace('"width"', '"depth"'))
    with pytest.raises(TetherError, match="settings that ToyAdapter does not accept"):
        tether.load_control(tmp_path / "a")


def test_a_control_of_a_family_that_is_not_installed_names_it(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"tether_family": "control-net"}')
    with pytest.raises(TetherError, match=r"unknown control family 'control-net' \(did you mean 'controlnet'\?\)"):
        tether.load_control(tmp_path)


def test_a_broken_package_is_a_warning_and_the_others_are_there(site: Path):
    install(site, "tether_broken", "raise RuntimeError('no such library')", "broken = tether_broken:Adapter")
    install(site, "tether_wrong", "Adapter = 3", "wrong = tether_wrong:Adapter")
    with pytest.warns(UserWarning, match="does not load") as caught:
        found = families()
    texts = sorted(str(warning.message) for warning in caught)
    assert texts[0] == "control family 'broken' (tether_broken:Adapter) does not load: no such library"
    assert "'wrong'" in texts[1]
    earlier = {"concatenated", "control-lora", "controlnet-unlocked", "controlnet-xs", "edge-guidance", "t2i-adapter"}
    variants = {"controlnet-gaussian", "controlnet-lite"}
    # "whole-unet" is there once a study that trains it was imported in this process
    assert set(found) - {"whole-unet"} == {"controlnet", "union", "toy-adapter"} | variants | earlier
