"""The engine `compile`: what is traced is PyTorch's picture, and nothing is compiled twice.

Dynamo's backend "eager" traces without compiling, in seconds; a slow test compiles.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

import tether
from tether.base import Base, UNetDenoiser, noise_process
from tether.control import Control, ControlNet, Injection, Signal
from tether.sampling.engines import engine
from tether.sampling.engines.compile import Compile, _Compiled, for_any_size

from ..tiny import NOISE_SCHEDULE, make_inputs, make_unet, randomize
from .fakes import FakeControl


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def graphs() -> int:
    """How many graphs were compiled so far."""
    return counters["stats"]["unique_graphs"]


def small_unet() -> Any:
    """Tracing takes time in proportion to the number of layers."""
    return make_unet(
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )


def make_control(unet: Any, seed: int = 3) -> ControlNet:
    control = cast(ControlNet, ControlNet.from_unet(unet, hint_channels=(4, 4, 8, 8))).eval().requires_grad_(False)
    torch.manual_seed(seed)
    randomize(control)
    return control


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def run(denoiser: Any, control: Any, size: tuple[int, int], batch: int = 2, seen: bool = True) -> Tensor:
    inputs = make_inputs(denoiser.network, batch=batch, size=size)
    latents, t, conditioning = inputs["latents"], inputs["timestep"], inputs["conditioning"]
    hint = torch.randn(1, 8, *size, generator=torch.Generator().manual_seed(5))
    signal: Signal = control(latents, t, conditioning, hint)
    return denoiser.predict(latents, t, conditioning, signal.scaled(0.3 * batch) if seen else None)


@torch.no_grad()
def test_a_window_that_ends_another_size_and_another_strength_compile_nothing_new() -> None:
    unet = small_unet()
    denoiser, control = UNetDenoiser(unet, noise_process(NOISE_SCHEDULE)), make_control(unet)
    fast, (steered,) = Compile("eager").prepare(denoiser, [control])
    for k, (size, batch, seen) in enumerate(
        [((16, 8), 2, True), ((16, 8), 2, False), ((8, 24), 2, True), ((16, 16), 4, True), ((24, 16), 6, False)]
    ):
        expected = run(denoiser, control, size, batch, seen)
        assert error(run(fast, steered, size, batch, seen), expected) < 1e-5
        assert graphs() == 2, f"call {k} compiled"


@torch.no_grad()
def test_regions_are_a_copy_that_shares_weights_and_compile_nothing_when_a_control_goes() -> None:
    unet = small_unet()
    copy = Compile("eager").regional(unet)
    shared = {id(tensor) for tensor in unet.parameters()}
    assert {id(tensor) for tensor in copy.parameters()} == shared
    assert not any(module._compiled_call_impl for module in unet.modules())
    assert any(module._compiled_call_impl for module in copy.modules())
    noise = noise_process(NOISE_SCHEDULE)
    plain, regional, control = UNetDenoiser(unet, noise), UNetDenoiser(copy, noise), make_control(unet)
    with for_any_size():
        assert error(run(regional, control, (16, 8)), run(plain, control, (16, 8))) < 1e-5
        before = graphs()
        assert before > 0
        for size, batch, seen in (((16, 8), 2, False), ((8, 24), 2, True), ((16, 16), 4, True)):
            expected = run(plain, control, size, batch, seen)
            assert error(run(regional, control, size, batch, seen), expected) < 1e-5
        assert graphs() == before


def draw(base: Base, controls: list[Control], engine: Any, **more: Any) -> Any:
    lines: list[str] = []
    pipe = tether.Pipeline(base, controls, engine=engine, notify=lines.append)
    condition: Any = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1)).round()
    (image,) = pipe("a cube", [condition] * len(controls), seed=1, steps=4, **more)
    return image, lines


def test_what_it_does_not_know_is_drawn_by_pytorch_with_one_line(tiny_base: Base) -> None:
    ours, unknown = Compile("eager"), FakeControl()
    _, (kept,) = ours.prepare(tiny_base.denoiser, [unknown])
    assert kept is unknown
    assert ours.taken_notes() == ["control control is drawn by eager: engine compile does not know FakeControl"]


def test_what_does_not_compile_is_drawn_by_pytorch_with_one_line(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("no C++ compiler\nand more")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fails)
    expected, _ = draw(tiny_base, [], "eager")
    ours = Compile()
    for _ in range(2):
        found, lines = draw(tiny_base, [], ours)
        assert found.tobytes() == expected.tobytes()
        assert lines == ["drawn by eager: a network does not compile (no C++ compiler)"]


def test_what_does_not_compile_for_some_shapes_is_compiled_for_others() -> None:
    tried: list[int] = []

    def fails(tensor: Tensor) -> dict[str, Tensor]:
        tried.append(len(tensor))
        if len(tensor) == 2:
            raise RuntimeError("too large")
        return {"": tensor}

    ours = Compile("eager")
    compiled = _Compiled(ours, fails)
    line = "drawn by eager: a network does not compile (too large)"
    for batch, notes in ((2, [line]), (1, []), (2, [line])):
        assert (compiled([torch.zeros(batch)]) is None) == bool(notes)
        assert ours.taken_notes() == notes
    assert tried == [2, 1]


@torch.no_grad()
def test_networks_that_take_turns_are_compiled_once_and_go_with_their_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(torch, "compile", lambda module, **_: made.append(1) or module)
    ours, unets = Compile("eager"), [small_unet(), small_unet()]
    noise = noise_process(NOISE_SCHEDULE)
    inputs = make_inputs(unets[0])
    for unet in unets * 2:
        denoiser, _ = ours.prepare(UNetDenoiser(unet, noise), [])
        denoiser.predict(inputs["latents"], inputs["timestep"], inputs["conditioning"])
    assert len(made) == len(ours._graphs) == 2
    unets[0].conv_in.weight.mul_(2)  # other weights: a graph of their own
    plain, (denoiser, _) = UNetDenoiser(unets[0], noise), ours.prepare(UNetDenoiser(unets[0], noise), [])
    given = (inputs["latents"], inputs["timestep"], inputs["conditioning"])
    assert error(denoiser.predict(*given), plain.predict(*given)) < 1e-5
    assert len(made) == 3
    del unets, unet, denoiser, plain
    gc.collect()
    assert len(ours._graphs) == 0


def test_memory_that_runs_out_is_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    ours = Compile("eager")
    with pytest.raises(torch.OutOfMemoryError):
        _Compiled(ours, fails)([])
    assert ours.taken_notes() == []


@pytest.mark.slow
def test_compiled_pictures_are_pytorchs_to_one_level(tiny_base: Base) -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("needs a C++ compiler")
    controls: list[Control] = [make_control(tiny_base.unet)]
    injections = [Injection(0.7, window=(0, 0.5))]
    expected, _ = draw(tiny_base, controls, "eager", injections=injections)
    found, lines = draw(tiny_base, controls, engine("compile"), injections=injections)
    levels = [torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).int() for image in (expected, found)]
    assert lines == []
    assert (levels[0] - levels[1]).abs().max() <= 1
