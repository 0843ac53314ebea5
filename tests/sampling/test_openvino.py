"""The OpenVINO engine against PyTorch: the same numbers, for every set of controls, from one conversion."""

from __future__ import annotations

import gc
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

import tether
from tether.base import Base, UNetDenoiser, noise_process
from tether.control import Control, ControlNet, Injection, Signal
from tether.sampling import Request
from tether.sampling.engines import Engine, engine, resolved
from tether.sampling.engines.cache import Cache

from ..tiny import NOISE_SCHEDULE, make_inputs, make_unet, randomize
from .fakes import FakeControl

if find_spec("openvino") is None:
    pytest.skip("needs the extra openvino", allow_module_level=True)

from tether.sampling.engines import openvino as module
from tether.sampling.engines.openvino import OpenVino

CLOSE = 1e-4
"""Relative error of float32 in another order of additions, through random weights."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The names of the inputs of each graph that is converted."""
    seen: list[tuple[str, ...]] = []
    convert = module._Graph._convert

    def counted(self: Any, *given: Any) -> Any:
        seen.append(self.names)
        return convert(self, *given)

    monkeypatch.setattr(module._Graph, "_convert", counted)
    return seen


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shape of the latents of each network that is compiled."""
    seen: list[tuple[int, ...]] = []
    compiled = module._Graph._compile

    def counted(self: Any, shapes: Any) -> Any:
        seen.append(shapes[0])
        return compiled(self, shapes)

    monkeypatch.setattr(module._Graph, "_compile", counted)
    return seen


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def make_control(unet: Any, seed: int = 3) -> ControlNet:
    control = cast(ControlNet, ControlNet.from_unet(unet, hint_channels=(4, 4, 8, 8))).eval().requires_grad_(False)
    torch.manual_seed(seed)
    randomize(control)
    return control


def call(unet: Any, **sizes: Any) -> tuple[Tensor, Tensor, Any]:
    inputs = make_inputs(unet, **sizes)
    return inputs["latents"], inputs["timestep"], inputs["conditioning"]


@pytest.mark.parametrize("family", ["bundled", "sdxl", "class labels"])
@torch.no_grad()
def test_denoiser_and_control_give_pytorchs_numbers_at_every_size(family: str, folder: Path, conversions: list) -> None:
    unet = make_unet(family)
    denoiser, control = UNetDenoiser(unet, noise_process(NOISE_SCHEDULE)), make_control(unet)
    ours = OpenVino(Cache("a", folder))
    fast, (steered,) = ours.prepare(denoiser, [control])
    for batch, size in ((2, (16, 8)), (1, (8, 24))):
        latents, t, conditioning = call(unet, batch=batch, size=size)
        hint = torch.randn(1, 32 if family != "sdxl" else 8, *size, generator=torch.Generator().manual_seed(5))
        expected, found = control(latents, t, conditioning, hint), steered(latents, t, conditioning, hint)
        assert list(found) == list(expected)
        assert max(error(found[name], expected[name]) for name in expected) < CLOSE
        with_signal = denoiser.predict(latents, t, conditioning, expected)
        assert error(fast.predict(latents, t, conditioning, expected), with_signal) < CLOSE
        # The control is gone: the same graph, and nothing of it is left.
        alone = denoiser.predict(latents, t, conditioning)
        assert error(with_signal, alone) > 100 * CLOSE
        assert error(fast.predict(latents, t, conditioning), alone) < CLOSE
    assert len(conversions) == 2
    assert ours.taken_notes() == []


@pytest.mark.parametrize("skips", [1, 3])
@torch.no_grad()
def test_deep_features_are_those_of_pytorch_and_serve_shallow_graphs(
    skips: int, folder: Path, conversions: list
) -> None:
    unet = make_unet()
    denoiser, control = UNetDenoiser(unet, noise_process(NOISE_SCHEDULE)), make_control(unet)
    ours = OpenVino(Cache("a", folder))
    prepared, (steered,) = ours.prepare(denoiser, [control])
    theirs, split = denoiser.split(skips), prepared.split(skips)
    for size in ((16, 8), (8, 24)):
        latents, t, conditioning = call(unet, size=size)
        hint = torch.randn(1, 32, *size, generator=torch.Generator().manual_seed(5))
        signal = control(latents, t, conditioning, hint)
        expected, found = (one.predict_whole(latents, t, conditioning, signal) for one in (theirs, split))
        assert max(error(*two) for two in zip(found, expected, strict=True)) < CLOSE
        first, deep = control.shallow(skips)(latents, t, conditioning, hint), expected[1] + 1
        steered_first = steered.shallow(skips)(latents, t, conditioning, hint)
        assert list(steered_first) == list(first) == [f"skip.{k}" for k in range(skips)]
        assert max(error(steered_first[name], first[name]) for name in first) < CLOSE
        for given in (first, None):
            shallow = theirs.predict_shallow(latents, t, conditioning, given, deep)
            assert error(split.predict_shallow(latents, t, conditioning, given, deep), shallow) < CLOSE
    assert len(conversions) == 3
    assert ours.taken_notes() == []


@torch.no_grad()
def test_sides_that_are_no_multiple_of_the_largest_scale_have_a_graph_of_their_own(folder: Path) -> None:
    unet = make_unet()
    denoiser = UNetDenoiser(unet, noise_process(NOISE_SCHEDULE))
    fast, _ = OpenVino(Cache("a", folder)).prepare(denoiser, [])
    for size in ((16, 16), (15, 18), (13, 10)):
        latents, t, conditioning = call(unet, size=size)
        expected = denoiser.predict(latents, t, conditioning)
        assert error(fast.predict(latents, t, conditioning), expected) < CLOSE


@torch.no_grad()
def test_a_signal_at_some_points_and_one_that_is_constant_over_space_are_added_as_they_are(folder: Path) -> None:
    unet = make_unet()
    denoiser = UNetDenoiser(unet, noise_process(NOISE_SCHEDULE))
    fast, _ = OpenVino(Cache("a", folder)).prepare(denoiser, [])
    latents, t, conditioning = call(unet)
    random = torch.Generator().manual_seed(2)
    signals = [
        Signal({"skip.1": torch.randn(2, 32, 16, 8, generator=random)}),
        Signal({"middle": torch.randn(2, 64, 1, 1, generator=random).expand(2, 64, 4, 2)}),
        Signal({"block.1": torch.randn(2, 64, 8, 4, generator=random)}),
    ]
    for signal in signals:
        expected = denoiser.predict(latents, t, conditioning, signal)
        assert error(fast.predict(latents, t, conditioning, signal), expected) < CLOSE
    with pytest.raises(tether.TetherError, match="fits another denoiser"):
        fast.predict(latents, t, conditioning, Signal({"skip.99": torch.zeros(2, 4, 1, 1)}))


@torch.no_grad()
def test_bfloat16_is_as_close_as_pytorchs(folder: Path) -> None:
    unet = make_unet()
    noise = noise_process(NOISE_SCHEDULE)
    latents, t, conditioning = call(unet)
    exact = UNetDenoiser(unet, noise).predict(latents, t, conditioning)
    denoiser = UNetDenoiser(unet.to(torch.bfloat16), noise)
    half = (latents.bfloat16(), t, conditioning.to(dtype=torch.bfloat16))
    fast, _ = OpenVino(Cache("b", folder)).prepare(denoiser, [])
    found = fast.predict(*half)
    assert found.dtype == torch.bfloat16
    assert error(found.float(), exact) < 2 * error(denoiser.predict(*half).float(), exact) + 1e-3


@torch.no_grad()
@pytest.mark.parametrize("family", ["bundled", "sdxl", "class labels"])
def test_timesteps_and_sizes_are_not_rounded_in_bfloat16(family: str, tmp_path: Path, conversions: list) -> None:
    """Their sinusoids would be those of other numbers: 481 is 480 in bfloat16."""
    unet = make_unet(family)
    noise = noise_process(NOISE_SCHEDULE)
    latents, _, conditioning = call(unet)
    numbers = [torch.tensor(481), torch.tensor(777)]
    exact = [UNetDenoiser(unet, noise).predict(latents, t, conditioning) for t in numbers]
    denoiser = UNetDenoiser(unet.to(torch.bfloat16), noise)
    half, told = latents.bfloat16(), conditioning.to(dtype=torch.bfloat16)
    fast, _ = OpenVino(Cache("b", tmp_path)).prepare(denoiser, [])
    for t, one in zip(numbers, exact, strict=True):
        found, theirs = (each.predict(half, t, told).float() for each in (fast, denoiser))
        assert error(found, one) < 1.3 * error(theirs, one) + 2e-4
    (names,) = conversions
    assert "time" in names
    assert "timestep" not in names
    assert ("sizes" in names) == (family == "sdxl")


@torch.no_grad()
def test_what_was_converted_is_read_again_unless_weights_changed_or_the_file_is_damaged(
    tmp_path: Path, conversions: list
) -> None:
    unet = make_unet()
    denoiser = UNetDenoiser(unet, noise_process(NOISE_SCHEDULE))
    latents, t, conditioning = call(unet)

    def drawn() -> Tensor:
        return OpenVino(Cache("a", tmp_path)).prepare(denoiser, [])[0].predict(latents, t, conditioning)

    first = drawn()
    assert torch.equal(drawn(), first)
    assert len(conversions) == 1
    for file in tmp_path.rglob("graph.bin"):
        file.write_bytes(file.read_bytes()[:100])
    for file in tmp_path.rglob("points.json"):
        file.write_text("{")
    assert torch.equal(drawn(), first)
    assert len(conversions) == 2
    unet.conv_in.weight.mul_(1.5)
    assert error(drawn(), denoiser.predict(latents, t, conditioning)) < CLOSE
    assert len(conversions) == 3


@torch.no_grad()
@pytest.mark.parametrize("writable", [True, False])
def test_pytorchs_copy_of_the_weights_is_kept_only_where_the_cache_cannot_be(tmp_path: Path, writable: bool) -> None:
    (tmp_path / "file").write_text("")
    engine = OpenVino(Cache("a", tmp_path if writable else tmp_path / "file"))
    unet = make_unet()
    denoiser = UNetDenoiser(unet, noise_process(NOISE_SCHEDULE))
    latents, t, conditioning = call(unet)
    found = engine.prepare(denoiser, [])[0].predict(latents, t, conditioning)
    assert error(found, denoiser.predict(latents, t, conditioning)) < CLOSE
    ((_, graphs),) = cast(Any, engine)._graphs.values()
    (graph,) = graphs.values()
    assert (graph.converted is None) == writable


def small_unet() -> Any:
    return make_unet(
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )


@torch.no_grad()
def test_networks_that_take_turns_are_compiled_once_and_keep_their_last_shape(
    tmp_path: Path, compilations: list
) -> None:
    ours, sizes = OpenVino(Cache("a", tmp_path)), [(8, 8), (16, 8)]
    denoisers = [UNetDenoiser(small_unet(), noise_process(NOISE_SCHEDULE)) for _ in range(2)]
    for turn, denoiser in enumerate(denoisers * 2):
        fast, _ = ours.prepare(denoiser, [])
        for size in sizes if turn < 2 else sizes[-1:]:
            latents, t, conditioning = call(denoiser.network, size=size)
            assert error(fast.predict(latents, t, conditioning), denoiser.predict(latents, t, conditioning)) < CLOSE
    assert [shape[2:] for shape in compilations] == sizes * 2
    ours.prepare(denoisers[0], [])
    kept = [graph.compiled for _, graphs in cast(Any, ours)._graphs.values() for graph in graphs.values()]
    assert [len(shapes) for shapes in kept] == [1, 1]


@torch.no_grad()
@pytest.mark.parametrize("writable", [True, False])
def test_what_was_compiled_goes_with_its_network(tmp_path: Path, writable: bool) -> None:
    (tmp_path / "file").write_text("")
    ours = OpenVino(Cache("a", tmp_path if writable else tmp_path / "file"))
    unet = small_unet()
    control, latents_t_conditioning = make_control(unet), call(unet)
    denoiser = UNetDenoiser(unet, noise_process(NOISE_SCHEDULE))
    fast, (steered,) = ours.prepare(denoiser, [control])
    fast.predict(*latents_t_conditioning)
    hint = torch.zeros(1, 8, *latents_t_conditioning[0].shape[2:])
    steered(*latents_t_conditioning, hint)
    assert ours.taken_notes() == []
    assert set(ours._graphs) == {unet, control}
    del control, steered
    gc.collect()
    assert set(ours._graphs) == {unet}
    del unet, denoiser, fast
    gc.collect()
    assert len(ours._graphs) == 0


@pytest.fixture
def ours(folder: Path) -> Engine:
    return OpenVino(Cache("p", folder))


def draw(base: Base, controls: list[Control], engine: Any, **more: Any) -> Any:
    lines: list[str] = []
    pipe = tether.Pipeline(base, controls, engine=engine, notify=lines.append)
    condition = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1)).round()
    (image,) = pipe("a cube", [condition] * len(controls), seed=1, steps=4, **more)
    return image, lines


def test_a_picture_with_windows_masks_and_sides_is_the_same_to_one_level(tiny_base: Base, ours: Engine) -> None:
    controls: list[Control] = [make_control(tiny_base.unet, seed) for seed in (3, 4)]
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :32] = 1
    injections = [
        Injection(0.7, window=(0, 0.5), mask=mask),
        Injection(0.5, "soft", window=(0.25, 0.75), sides="conditional"),
    ]
    expected, _ = draw(tiny_base, controls, "eager", injections=injections)
    found, lines = draw(tiny_base, controls, ours, injections=injections)
    levels = [torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).int() for image in (expected, found)]
    assert (levels[0] - levels[1]).abs().max() <= 1
    assert lines == []


def test_what_it_does_not_know_is_drawn_by_pytorch_with_one_line(tiny_base: Base, ours: Engine) -> None:
    unknown = FakeControl()
    denoiser, (kept,) = ours.prepare(tiny_base.denoiser, [unknown])
    assert kept is unknown
    assert denoiser is not tiny_base.denoiser
    assert ours.taken_notes() == [
        "control control is drawn by eager: engine openvino does not know FakeControl",
    ]
    assert ours.taken_notes() == []


def test_what_does_not_convert_is_drawn_by_pytorch_with_one_line(
    tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("no such operation\nand more")

    monkeypatch.setattr(module._Graph, "_convert", fails)
    expected, _ = draw(tiny_base, [], "eager")
    ours = OpenVino(Cache("x", tmp_path))
    for _ in range(2):
        found, lines = draw(tiny_base, [], ours)
        assert found.tobytes() == expected.tobytes()
        assert lines == ["drawn by eager: a network does not convert to OpenVINO (no such operation)"]


@torch.no_grad()
def test_what_does_not_compile_at_a_size_is_drawn_by_pytorch_there_alone_with_one_line_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[int, ...]] = []
    compiled = module._Graph._compile

    def fails(self: Any, shapes: Any) -> Any:
        tried.append(shapes[0][2:])
        if tried[-1] == (16, 8):
            raise RuntimeError("out of memory\nand more")
        return compiled(self, shapes)

    monkeypatch.setattr(module._Graph, "_compile", fails)
    ours, denoiser = OpenVino(Cache("a", tmp_path)), UNetDenoiser(small_unet(), noise_process(NOISE_SCHEDULE))
    line = "drawn by eager: OpenVINO does not compile a network at this size (out of memory)"
    for size, exact in (((16, 8), True), ((8, 8), False), ((16, 8), True)):
        fast, _ = ours.prepare(denoiser, [])
        given = call(denoiser.network, size=size)
        for _ in range(2):
            found, expected = fast.predict(*given), denoiser.predict(*given)
            assert torch.equal(found, expected) == exact
            assert error(found, expected) < CLOSE
        assert ours.taken_notes() == ([line] if exact else [])
    assert tried == [(16, 8), (8, 8)]


def test_auto_is_openvino_on_the_cpu_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (resolved("auto"), resolved("auto", "cuda:0"), resolved("eager")) == ("openvino", "eager", "eager")
    assert isinstance(engine("auto"), OpenVino)
    assert Request(prompt="x", engine="auto").engine == "auto"
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert resolved("auto") == "eager"
    with pytest.raises(tether.TetherError, match=r"needs OpenVINO .*pip install 'tether-control\[openvino"):
        engine("openvino")


def test_nothing_that_reports_home_is_imported() -> None:
    assert "openvino" in sys.modules
    assert not {"openvino_telemetry", "openvino.tools.ovc"} & {name for name, one in sys.modules.items() if one}


def test_a_signal_is_handled_after_an_engine_was_dropped_in_another_thread() -> None:
    program = (
        "import gc, signal, threading\n"
        "from tether.sampling.engines.openvino import OpenVino\n"
        "engine = [OpenVino()]\n"
        "engine[0].core.get_property('CPU', 'FULL_DEVICE_NAME')  # loads the plugin\n"
        "dropped = threading.Thread(target=lambda: (engine.clear(), gc.collect()))\n"
        "dropped.start(); dropped.join()\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('handled'))\n"
        "signal.raise_signal(signal.SIGTERM)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
