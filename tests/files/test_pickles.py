"""PyTorch files open without running anything in them; damaged and hostile ones are refused."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from tether.base import ControlNet, load_base
from tether.base.single_file import vae_of_file
from tether.files.checkpoints import open_checkpoint
from tether.files.pickles import MAX_PICKLE

from .hostile import (
    Builder,
    Hostile,
    lying_pickle,
    refused,
    torch_bytes,
    torch_with_table,
    written,
    zip_bomb,
    zipped,
)

GOOD = torch_bytes({"state_dict": {"a": torch.randn(64, 64)}})
DEEP = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."

MALFORMED: dict[str, Builder] = {
    "PyTorch file cut in half": written("half.pth", GOOD[: len(GOOD) // 2]),
    "PyTorch file cut at its end": written("end.pth", GOOD[:-10]),
    "zip without tensors": written("docx.pth", zipped({"word/document.xml": b"<xml/>"})),
    "zip bomb": zip_bomb,
    "pickle that runs a command": written("run.pth", torch_bytes({"a": Hostile(os.system, "echo harm")})),
    "pickle that imports": written("import.pth", torch_bytes({"a": Hostile(__import__, "os")})),
    "pickle that takes memory": written("bytes.pth", torch_bytes({"a": Hostile(bytearray, 10**12)})),
    "pickle that makes a large tensor": written("large.pth", torch_bytes({"a": Hostile(torch.Tensor, 10**10)})),
    "pickle that hides its call": written("hidden.pth", torch_with_table(pickle.dumps(Hostile(os.system, "x"), 4))),
    "pickle that breaks off": written("broken.pth", torch_with_table(b"\x80\x02}q\x00X\xff\x00")),
    "pickle nested without end": written("nested.pth", torch_with_table(DEEP)),
    "pickle of nothing but lists": written(
        "lists.pth", torch_with_table(b"\x80\x02(" + b"]" * (MAX_PICKLE - 8) + b"l.")
    ),
    "pickle whose tensors are all the same bytes": written(
        "alias.pth", torch_bytes({"state_dict": dict.fromkeys(map(str, range(300)), torch.zeros(1000))})
    ),
    "pickle of 8 MB": written("fat.pth", torch_with_table(b"\x80\x02" + b"N0" * 2**22 + b"N.")),
    "pickle shape larger than its bytes": written("lie.pth", lying_pickle((10**6, 10**6), (10**6, 1))),
    "pickle shape of one number repeated": written("stride.pth", lying_pickle((10**6, 10**6), (0, 0))),
    "pickle of a list": written("list.pth", torch_bytes([1, 2, 3])),
    "pickle without tensors": written("none.pth", torch_bytes({"epoch": 3})),
    "bare pickle": written("bare.ckpt", pickle.dumps({"a": [1, 2, 3], "b": "words" * 10}, 2)),
    "bare pickle that runs a command": written("bare2.ckpt", pickle.dumps(Hostile(os.system, "echo harm"), 2)),
}
MESSAGES = {
    "PyTorch file cut in half": "is truncated: the list of its members",
    "PyTorch file cut at its end": "is truncated: the list of its members",
    "zip without tensors": "is a zip file, but not a PyTorch file",
    "zip bomb": "is refused: it is compressed",
    "pickle that runs a command": "is refused: its pickle calls",
    "pickle that imports": "is refused: its pickle calls",
    "pickle that takes memory": "is refused: its pickle calls",
    "pickle that makes a large tensor": "is refused: its pickle calls torch",
    "pickle that hides its call": "its pickle hides what it calls",
    "pickle that breaks off": "its table is incomplete",
    "pickle nested without end": "expected a dictionary of tensors",
    "pickle of nothing but lists": "is damaged or inconsistent: its table is invalid",
    "pickle whose tensors are all the same bytes": "declares 1,200,000 bytes of tensors in a file of",
    "pickle of 8 MB": "has a table of",
    "pickle shape larger than its bytes": "is damaged or inconsistent",
    "pickle shape of one number repeated": "larger than its storage",
    "pickle of a list": "contains a list: expected a dictionary of tensors",
    "pickle without tensors": "contains no tensors",
    "bare pickle": "is a pickle of PyTorch before 1.6",
    "bare pickle that runs a command": "is a pickle of PyTorch before 1.6",
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_refused_in_one_line(case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = MALFORMED[case](tmp_path)
    assert path.name in refused(lambda: load_base(path), MESSAGES[case])
    assert "harm" not in capfd.readouterr().out


@pytest.mark.parametrize("case", ["zip bomb", "pickle that runs a command"])
@pytest.mark.parametrize("opens", [ControlNet.load, vae_of_file, open_checkpoint])
def test_whatever_opens_files_refuses_them(case: str, opens: Callable[[Path], Any], tmp_path: Path) -> None:
    path = MALFORMED[case](tmp_path)
    assert path.name in refused(lambda: opens(path), MESSAGES[case])


def test_a_pickle_bomb_never_runs(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    path = tmp_path / "bomb.ckpt"
    path.write_bytes(torch_bytes({"state_dict": {"a": torch.zeros(2)}, "b": Hostile(os.system, f"touch {witness}")}))
    refused(lambda: open_checkpoint(path), "is refused: its pickle calls posix.system")
    assert not witness.exists()


def test_numbers_and_names_beside_the_tensors_are_no_harm(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 5), "b": torch.randn(7).half()}
    torch.save({"epoch": 3, "global_step": 110000, "lr": 0.1, "name": "x", "state_dict": tensors}, tmp_path / "x.ckpt")
    opened = open_checkpoint(tmp_path / "x.ckpt")
    assert opened.numbers == {"epoch": 3, "global_step": 110000, "lr": 0.1}
    assert opened.tensors.keys() == tensors.keys()
    assert all(torch.equal(opened.tensors[name], tensor) for name, tensor in tensors.items())


def test_what_lightning_saved_beside_the_tensors_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first released files hold its callbacks: a class, and NumPy's number for the best loss so far."""
    name, kept = "pytorch_lightning.callbacks.model_checkpoint", {"a": torch.randn(3, 5)}
    modules = {part: ModuleType(part) for part in ("pytorch_lightning", "pytorch_lightning.callbacks", name)}
    callback = type("ModelCheckpoint", (), {"__module__": name})
    vars(modules[name])["ModelCheckpoint"] = callback
    with monkeypatch.context() as patched:
        for part, module in modules.items():
            patched.setitem(sys.modules, part, module)
        state = {"best_model_score": np.float64(0.25), "best_model_path": "epoch=1.ckpt", "best": callback()}
        content = {"global_step": 470000, "callbacks": {callback: state}, "state_dict": kept}
        (tmp_path / "x.ckpt").write_bytes(torch_bytes(content))
    opened = open_checkpoint(tmp_path / "x.ckpt")
    assert opened.numbers == {"global_step": 470000}
    assert torch.equal(opened.tensors["a"], kept["a"])
    assert "pytorch_lightning" not in sys.modules


def test_tied_weights_may_share_their_numbers(tmp_path: Path) -> None:
    tied = torch.randn(64, 64)
    torch.save({"a": tied, "b": tied}, tmp_path / "x.pth")
    assert open_checkpoint(tmp_path / "x.pth").tensors.keys() == {"a", "b"}
