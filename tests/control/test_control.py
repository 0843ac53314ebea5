"""The interface of a control, its defaults, and the registry of families."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tether.control import Conditioning, Control, ControlNet, Signal, control, families, family, register
from tether.errors import TetherError


class Adder(Control):
    """The smallest control: adds a learned number in the middle."""

    per_step = False

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.config = {"channels": channels}
        self.number = nn.Parameter(torch.ones(channels))

    def encode(self, condition: Tensor) -> Tensor:
        return condition.mean((1, 2, 3), keepdim=True)

    def signal(self, latents: Tensor, timestep: Any, conditioning: Conditioning, hint: Tensor) -> Signal:
        return Signal({"middle": hint * self.number[:, None, None].expand(len(latents), -1, 1, 1)})


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_FAMILIES", dict(control._FAMILIES))


def base(**points: int) -> Any:
    spec = SimpleNamespace(points=[SimpleNamespace(name=name, channels=c) for name, c in points.items()])
    return SimpleNamespace(name="sd15", denoiser=SimpleNamespace(spec=spec))


def test_a_call_is_the_signal_and_hooks_see_it():
    adder, calls = Adder(), []
    adder.register_forward_hook(lambda *_: calls.append(1))
    hint = adder.encode(torch.ones(1, 3, 8, 8))
    signal = adder(torch.zeros(2, 4, 1, 1), 3, Conditioning(torch.zeros(2, 1, 1)), hint)
    assert torch.equal(signal["middle"], torch.ones(2, 2, 1, 1))
    assert calls == [1]


def test_the_defaults_are_a_control_of_rgb_images_that_changes_no_denoiser_and_fits_every_base():
    adder, denoiser = Adder(), object()
    assert adder.condition_channels == 3
    assert adder.wrap(denoiser) is denoiser
    assert not adder.pools_globally
    assert not adder.is_gradient_checkpointing
    assert (adder.kind, adder.name, adder.dtype) == (None, "control", torch.float32)
    adder.check_fits(base())


def test_a_control_that_says_its_points_is_checked_against_the_base():
    class Pointed(Adder):
        points = {"middle": 8}  # noqa: RUF012

    Pointed().check_fits(base(middle=8))
    with pytest.raises(TetherError, match=r"control control adds 8 channels at middle, but base sd15 has 4"):
        Pointed().check_fits(base(middle=4))


def test_a_registered_family_has_its_name_and_is_found():
    assert register("adder")(Adder) is Adder
    assert Adder.family == "adder"
    assert family("adder") is Adder
    assert families()["adder"] is Adder


def test_control_net_is_a_family_without_being_imported_first():
    assert family("controlnet") is ControlNet
    assert families()["controlnet"] is ControlNet


def test_a_name_belongs_to_one_class_and_the_same_class_may_come_again():
    register("adder")(Adder)
    register("adder")(Adder)

    class Other(Adder):
        pass

    with pytest.raises(TetherError, match="control family 'adder' exists already"):
        register("adder")(Other)


def test_an_unknown_family_is_refused_with_the_nearest_name():
    with pytest.raises(TetherError, match=r"unknown control family 'ControlNet' \(did you mean 'controlnet'\?\)"):
        family("ControlNet")


def test_a_family_that_makes_no_new_controls_says_so():
    register("adder")(Adder)
    with pytest.raises(TetherError, match=r"'adder' cannot make new controls: implement Adder\.from_base"):
        Adder.from_base(base())


def test_encode_and_signal_are_required():
    class Nothing(Control):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Nothing()


def test_a_control_without_a_family_is_not_saved(tmp_path):
    class Nameless(Adder):
        family = ""

    with pytest.raises(TetherError, match="Nameless has no family name"):
        Nameless().save(tmp_path / "a")


def test_settings_weights_and_kind_come_back(tmp_path):
    register("adder")(Adder)
    adder = Adder(3)
    nn.init.normal_(adder.number)
    adder.kind = "depth"
    adder.save(tmp_path / "a", dtype=torch.float16)
    assert Adder.recognizes(tmp_path / "a")
    assert not Adder.recognizes(tmp_path)
    again = Adder.read(tmp_path / "a")
    assert torch.equal(again.number, adder.number.half().float())
    assert (again.kind, again.config, again.dtype) == ("depth", {"channels": 3}, torch.float32)
    assert Adder.read(tmp_path / "a", kind="canny", dtype=torch.bfloat16).kind == "canny"
