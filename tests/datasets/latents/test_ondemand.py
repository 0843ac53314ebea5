"""Samples encoded on demand are those of a cache, to the bit, whatever was encoded before."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from PIL import Image

from tether.base import Base
from tether.base.base import cast_quietly
from tether.datasets.latents import views
from tether.datasets.latents.cache import plan_cache
from tether.datasets.latents.ondemand import OnDemandSamples, encoders_of
from tether.datasets.latents.resolution import Resolution
from tether.datasets.latents.samples import CachedSamples
from tether.datasets.latents.views import DatasetView, SourceView
from tether.datasets.prepare import Preparation, Prepared
from tether.datasets.source import Rejected, Sample, Source
from tether.datasets.sources import open_source
from tether.errors import TetherError

from .conftest import CROPS, cached


def same(one: dict[str, object], other: dict[str, object]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]  # type: ignore[arg-type]
        for key, value in one.items()
    )


def opened(data: Path, base: Base, out: Path, seed: int = 0) -> OnDemandSamples:
    view = DatasetView(plan_cache(data, base, out, resolution=64, crops=CROPS, flips=True))
    return OnDemandSamples(view, encoders_of(base), out, resolution=Resolution(64, 64), crops=CROPS, seed=seed)


def test_samples_on_demand_are_those_of_the_cache(data: Path, tiny_base: Base, tmp_path: Path) -> None:
    whole = CachedSamples(cached(data, tiny_base, tmp_path / "cache"), seed=3)
    found = opened(data, tiny_base, tmp_path / "other", seed=3)
    assert len(found) == len(whole)
    for index, epoch in itertools.product(range(len(whole)), range(CROPS)):
        one, other = whole.sample(index, epoch), found.sample(index, epoch)
        torch.testing.assert_close(one["latents"], other["latents"], rtol=2e-3, atol=2e-3)  # batches of 4, and of 1
        assert same(one | {"latents": 0}, other | {"latents": 0})


def test_a_sample_does_not_depend_on_what_was_encoded_before(data: Path, tiny_base: Base, tmp_path: Path) -> None:
    first, second = (opened(data, tiny_base, tmp_path / name) for name in "ab")
    forward = {index: first.sample(index) for index in range(len(first))}
    backward = {index: second.sample(index) for index in reversed(range(len(second)))}
    assert all(same(forward[index], backward[index]) for index in forward)


def test_what_was_encoded_is_not_encoded_again(
    data: Path, tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(data, tiny_base, tmp_path)
    before = [first.sample(index) for index in range(3)]
    calls: list[int] = []
    monkeypatch.setattr(Base, "encode_images", lambda *_: calls.append(0))
    again = opened(data, tiny_base, tmp_path)
    assert all(same(one, again.sample(index)) for index, one in enumerate(before))
    assert calls == []


def test_only_what_is_shown_is_prepared(tiny_base: Base, tmp_path: Path) -> None:
    source = open_source("circles", size=72)
    view = SourceView(source, Preparation("canny", size=72))
    samples = OnDemandSamples(view, encoders_of(tiny_base), tmp_path, resolution=Resolution(64, 64), crops=4)
    assert len(samples) == 5000
    assert samples.sample(4321)["name"] == "circle-004321"
    assert len(samples.store) == 4  # what is known of the sample, its crop, its caption, and the empty one


def test_casting_and_releasing_the_base_changes_nothing(data: Path, tiny_base: Base, tmp_path: Path) -> None:
    before = opened(data, tiny_base, tmp_path / "a").sample(1)
    later = opened(data, tiny_base, tmp_path / "b")
    state = {name: tensor.clone() for name, tensor in tiny_base.vae.state_dict().items()}
    cast_quietly(tiny_base.vae, torch.bfloat16)
    try:
        assert same(before, later.sample(1))
    finally:
        cast_quietly(tiny_base.vae, torch.float32)
        tiny_base.vae.load_state_dict(state)


class Odd(Source):
    """Images of which every other one cannot be read."""

    layout = "odd"

    def __init__(self, good: bool = True) -> None:
        self.good = good

    def __len__(self) -> int:
        return 4

    def key(self, index: int) -> str:
        return str(index)

    def sample(self, index: int, kind: str | None = None) -> Sample:
        if index % 2 or not self.good:
            raise Rejected("unreadable", "torn")
        pixels = np.random.default_rng(index).integers(0, 256, (72, 72, 3), dtype=np.uint8)
        return Sample(str(index), Image.fromarray(pixels), f"number {index}")

    def listing(self) -> list[object]:
        return []


def test_a_sample_that_cannot_be_used_is_replaced_by_the_next_one() -> None:
    view = SourceView(Odd(), Preparation("canny", size=72))
    assert [view.about(index).name for index in range(4)] == ["0", "2", "2", "0"]
    with pytest.raises(TetherError, match="no usable sample; the last one: torn"):
        SourceView(Odd(good=False), Preparation("canny", size=72)).about(0)


def test_a_sample_that_is_held_back_stands_in_for_no_other() -> None:
    view = SourceView(Odd(), Preparation("canny", size=72))
    view.apart = {2, 3}
    assert [view.about(index).name for index in range(4)] == ["0", "0", "2", "2"]


def test_a_sample_that_is_held_back_later_is_not_trained_on_from_the_cache(tiny_base: Base, tmp_path: Path) -> None:
    def opened_with(apart: set[int]) -> OnDemandSamples:
        view = SourceView(Odd(), Preparation("canny", size=72), identity="odd")
        view.apart = apart
        return OnDemandSamples(view, encoders_of(tiny_base), tmp_path, resolution=Resolution(64, 64), crops=1)

    everything = opened_with(set())
    before = [everything.sample(index) for index in range(4)]
    assert [one["name"] for one in before] == ["0", "2", "2", "0"]
    later = opened_with({2, 3})
    after = [later.sample(index) for index in range(4)]
    assert [one["name"] for one in after] == ["0", "0", "2", "2"]
    assert torch.equal(after[1]["latents"], before[0]["latents"])
    again = opened_with(set())
    assert all(same(again.sample(index), one) for index, one in enumerate(before))


@pytest.mark.parametrize(("maker", "together"), [({}, 2), ({"detector": "hash"}, 1)], ids=str)
def test_threads_prepare_samples_at_once_but_not_with_a_network_of_the_users(
    maker: dict[str, str], together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, most, enough = 0, 0, Event()

    def prepare(source: Source, how: Preparation, number: int) -> Prepared:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        if most == 2:
            enough.set()
        enough.wait(0.5)
        inside -= 1
        return Prepared(str(number), b"", "png", b"", "words", "")

    monkeypatch.setattr(views, "prepare_sample", prepare)
    monkeypatch.setattr(Preparation, "maker", lambda *_: maker)
    view = SourceView(Odd(), Preparation("canny", size=72))
    with ThreadPoolExecutor(2) as pool:
        assert [one.content for one in pool.map(view.stored, range(2))] == ["", ""]
    assert most == together


def test_scenes_without_a_mannequin_are_no_samples_of_poses() -> None:
    source = open_source("scenes", size=64, count=12)
    view = SourceView(source, Preparation("openpose", size=64, min_side=32))
    assert 0 < len(view) < 12
    for index in view.usable:
        source.sample(index, "openpose")
