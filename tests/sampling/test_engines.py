"""Engines: a new one is one file."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

import tether
from tether.base import Base
from tether.errors import TetherError
from tether.sampling import Request
from tether.sampling.engines import Eager, engine, engines

from .fakes import FakeControl, FakeDenoiser

TOY = """
from tether.base.denoiser import Denoiser
from tether.sampling.engines import Engine, register


class Counted(Denoiser):
    def __init__(self, inner):
        self.inner, self.network, self.spec, self.calls = inner, inner.network, inner.spec, 0

    def predict(self, latents, timestep, conditioning, signal=None):
        self.calls += 1
        return self.inner.predict(latents, timestep, conditioning, signal)


@register("toy")
class Toy(Engine):
    made = []

    def prepare(self, denoiser, controls):
        self.made.append(Counted(denoiser))
        return self.made[-1], controls
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An engine in one file of its own."""
    registry = importlib.import_module("tether.sampling.engines.engine")
    monkeypatch.setattr(registry, "_ENGINES", dict(registry._ENGINES))
    (tmp_path / "toy_engine.py").write_text(TOY)
    spec = importlib.util.spec_from_file_location("toy_engine", tmp_path / "toy_engine.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_new_engine_is_one_file_and_computes_the_denoiser(toy: ModuleType, tiny_base: Base) -> None:
    assert {"eager", "openvino", "toy"} <= set(engines())
    (ours,) = tether.Pipeline(tiny_base, engine="toy")("a cube", seed=1, steps=5)
    (plain,) = tether.Pipeline(tiny_base)("a cube", seed=1, steps=5)
    assert isinstance(ours, Image.Image)
    assert isinstance(plain, Image.Image)
    assert ours.tobytes() == plain.tobytes()
    assert [one.calls for one in toy.Toy.made] == [5]


def test_a_request_names_its_engine(toy: ModuleType, tiny_folder: Path) -> None:
    request = Request(prompt="a cube", base=str(tiny_folder), steps=3, engine="toy")
    (drawn,) = tether.sampling.Session().run(request)
    assert [one.calls for one in toy.Toy.made] == [3]
    assert '"engine":"toy"' in drawn.metadata["tether"]


def test_a_session_keeps_its_engine_from_run_to_run(toy: ModuleType, tiny_folder: Path) -> None:
    session = tether.sampling.Session()
    request = Request(prompt="a cube", base=str(tiny_folder), steps=1, engine="toy")
    first, second = session.open(request).engine, session.open(request).engine
    assert isinstance(first, toy.Toy)
    assert first is second


def test_eager_gives_back_what_it_gets() -> None:
    denoiser, controls = FakeDenoiser(), [FakeControl()]
    assert engine("eager").prepare(denoiser, controls) == (denoiser, controls)
    assert isinstance(engine("eager"), Eager)


def test_an_engine_may_be_given_as_an_object(tiny_base: Base) -> None:
    mine = Eager()
    assert tether.Pipeline(tiny_base, engine=mine).engine is mine


def test_an_unknown_engine_is_refused(tiny_base: Base) -> None:
    with pytest.raises(TetherError, match="unknown engine 'warp': choose one of auto, "):
        tether.Pipeline(tiny_base, engine="warp")
    with pytest.raises(TetherError, match="unknown engine 'warp'"):
        Request(prompt="x", engine="warp")
