"""Files that are damaged, or made to do harm, are refused in one line, fast, and before memory is taken."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tether.base import ControlNet, load_base
from tether.base.single_file import vae_of_file
from tether.errors import TetherError
from tether.files.checkpoints import MAX_HEADER, open_checkpoint
from tether.files.pickles import MAX_PICKLE

SECONDS = 5.0
MEMORY = 200 * 2**20

Builder = Callable[[Path], Path]


def header_of(table: dict[str, Any], body: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file, by hand."""
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def written(name: str, content: bytes) -> Builder:
    def build(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return build


def entry(kind: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


def torch_bytes(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def members_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def torch_with_table(table: bytes) -> bytes:
    """A PyTorch file whose pickle is this one."""
    return zipped({**members_of(torch_bytes({"a": torch.zeros(4)})), "archive/data.pkl": table})


class Hostile:
    """Pickled, this is a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def huge_header(folder: Path) -> Path:
    path = folder / "header.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2 * 2**30) + b"{")
        file.truncate(2 * 2**30 + 4096)  # a hole: the file is that long and takes no room
    return path


def zip_bomb(folder: Path) -> Path:
    path = folder / "bomb.pth"
    members = members_of(torch_bytes({"a": torch.zeros(4)}))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            if "/data/" not in name:
                archive.writestr(name, content)
        with archive.open("archive/data/0", "w", force_zip64=True) as file:
            for _ in range(128):
                file.write(bytes(2**20))
    assert path.stat().st_size < 2**20
    return path


def lying_pickle(shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """A PyTorch file whose table gives the four numbers it has this shape."""
    table = members_of(torch_bytes({"a": torch.zeros(4)}))["archive/data.pkl"]

    def tuple_of(numbers: tuple[int, ...]) -> bytes:
        body = b"".join(b"\x8a\x08" + struct.pack("<q", number) for number in numbers)
        return b"(" + body + b"t"

    # The table says shape (4,) as K\x04 \x85 and stride (1,) as K\x01 \x85, each followed by a memo mark.
    before, rest = table.split(b"K\x04\x85", 1)
    rest = rest.split(b"K\x01\x85", 1)
    return torch_with_table(before + tuple_of(shape) + rest[0] + tuple_of(stride) + rest[1])


GOOD = torch_bytes({"state_dict": {"a": torch.randn(64, 64)}})
DEEP = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."

MALFORMED: dict[str, Builder] = {
    "empty": written("empty.safetensors", b""),
    "a few bytes": written("few.safetensors", b"\x01\x02\x03"),
    "wrong magic": written("magic.safetensors", os.urandom(8) + b"\x00" * 4096),
    "a web page": written("page.safetensors", b"<!DOCTYPE html><html><body>404</body></html>"),
    "a Git LFS pointer": written("lfs.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "header of 2 GB": huge_header,
    "header longer than the file": written("long.safetensors", struct.pack("<Q", 9999) + b'{"a":'),
    "header that is no JSON": written("json.safetensors", struct.pack("<Q", 16) + b"{" + b"x" * 15),
    "header that is a list": written("list.safetensors", struct.pack("<Q", 2) + b"[]" + b" " * 20),
    "header nested without end": written("deep.safetensors", struct.pack("<Q", 200_004) + b'{"a":' + b"[" * 199_999),
    "truncated tensors": written("short.safetensors", header_of({"a": entry("F32", [64], 0, 256)}, bytes(100))),
    "shape larger than its bytes": written(
        "lie.safetensors", header_of({"a": entry("F32", [2**20, 2**20], 0, 256)}, bytes(256))
    ),
    "offsets past the end": written("past.safetensors", header_of({"a": entry("F32", [2**40], 0, 2**42)}, bytes(64))),
    "offsets backwards": written("back.safetensors", header_of({"a": entry("F32", [4], 32, 16)}, bytes(64))),
    "negative shape": written("minus.safetensors", header_of({"a": entry("F32", [-4, -4], 0, 64)}, bytes(64))),
    "shape of 300,000 sides": written(
        "sides.safetensors", header_of({"a": entry("F32", [9] * 300_000, 0, 16)}, bytes(16))
    ),
    "a side of 4,000 digits": written(
        "digits.safetensors", header_of({"a": entry("F32", [10**4000] * 64, 0, 16)}, bytes(16))
    ),
    "a name of 1 MB": written("name.safetensors", header_of({"a" * 2**20: entry("F32", [5], 0, 16)}, bytes(16))),
    "unknown type": written("type.safetensors", header_of({"a": entry("F4711", [4], 0, 16)}, bytes(16))),
    "entry without a place": written("place.safetensors", header_of({"a": {"dtype": "F32"}}, bytes(16))),
    "tensors that overlap": written(
        "over.safetensors", header_of({"a": entry("F32", [4], 0, 16), "b": entry("F32", [4], 8, 24)}, bytes(24))
    ),
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
    "header of nothing but lists": written(
        "lists.safetensors", header_of({"a": [[]] * (MAX_HEADER // 4 - 4)}, bytes(16))
    ),
    "header of more than is believed": written(
        "more.safetensors", header_of({"a": [[]] * (MAX_HEADER // 4 + 4)}, bytes(16))
    ),
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


def peak_memory() -> int:
    """The most memory this process had at once since the last reset, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def refused(action: Callable[[], Any]) -> str:
    """The one line an action is refused with, in time and in memory."""
    measured = sys.platform == "linux" and os.access("/proc/self/clear_refs", os.W_OK)
    if measured:
        Path("/proc/self/clear_refs").write_text("5")
        before = peak_memory()
    start = time.process_time()
    with pytest.raises(TetherError) as caught:
        action()
    assert time.process_time() - start < SECONDS
    if measured:
        assert peak_memory() - before < MEMORY
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert len(line) < 600
    return line


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_refused_in_one_line(case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = MALFORMED[case](tmp_path)
    assert path.name in refused(lambda: load_base(path))
    assert "harm" not in capfd.readouterr().out


@pytest.mark.parametrize("case", ["truncated tensors", "header of 2 GB", "pickle that runs a command"])
@pytest.mark.parametrize("opens", [ControlNet.load, vae_of_file])
def test_whatever_opens_files_refuses_them(case: str, opens: Callable[[Path], Any], tmp_path: Path) -> None:
    path = MALFORMED[case](tmp_path)
    assert path.name in refused(lambda: opens(path))


def test_a_pickle_bomb_never_runs(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    path = tmp_path / "bomb.ckpt"
    path.write_bytes(torch_bytes({"state_dict": {"a": torch.zeros(2)}, "b": Hostile(os.system, f"touch {witness}")}))
    assert "system" in refused(lambda: open_checkpoint(path))
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


def test_opening_reads_nothing_of_the_tensors(tmp_path: Path) -> None:
    """A file of 8 GB (a hole) opens in no memory: its tensors are mapped."""
    path = tmp_path / "large.safetensors"
    side = 2**16
    head = header_of({"a": entry("F16", [side, side], 0, 2 * side * side)})
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + 2 * side * side)
    program = (
        "import resource, sys\n"
        "from tether.files.checkpoints import open_checkpoint\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"tensor = open_checkpoint({str(path)!r}).tensors['a']\n"
        f"assert tensor.shape == ({side}, {side}) and tensor[-1, -1] == 0\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 50 * 2**20


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_vae_with_one_broken_number_is_refused(bad: float, tiny_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from tether.base.folder import part_of_folder

    tensors = load_file(tiny_folder / "vae" / "diffusion_pytorch_model.safetensors")
    tensors["decoder.conv_in.weight"][0, 0, 1, 1] = bad
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text((tiny_folder / "vae" / "config.json").read_text())
    line = refused(lambda: part_of_folder(tmp_path).materialize(None))
    assert "decoder.conv_in.weight" in line
    assert "contains NaN or infinity" in line


def test_a_number_too_large_for_the_wanted_type_is_refused(tiny_folder: Path) -> None:
    from tether.base.folder import part_of_folder

    part = part_of_folder(tiny_folder / "vae")
    part.tensors["decoder.conv_in.bias"] = torch.full_like(part.tensors["decoder.conv_in.bias"], 1e5)
    part.materialize(torch.bfloat16)
    assert "float16" in refused(lambda: part.materialize(torch.float16))


@pytest.mark.parametrize("change", [{"hidden_size": "wide"}, {"hidden_size": -4}, {"num_hidden_layers": None}])
def test_settings_of_no_text_encoder_are_refused(change: dict[str, Any], tiny_folder: Path) -> None:
    from tether.base.parts import make_network

    config = json.loads((tiny_folder / "text_encoder" / "config.json").read_text())
    assert "has an invalid config" in refused(lambda: make_network(config | change, "a folder"))


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ("layers_per_block", 10**9),
        ("block_out_channels", [10**9] * 4),
        ("block_out_channels", [8] * 10**6),
        ("transformer_layers_per_block", [[10**9], [1]]),
    ],
)
def test_settings_of_no_network_are_refused(settings: str, value: Any, tiny_folder: Path) -> None:
    from tether.base.parts import make_network

    config = json.loads((tiny_folder / "unet" / "config.json").read_text())
    assert settings in refused(lambda: make_network(config | {settings: value}, "a folder"))


def test_settings_of_too_many_layers_in_all_are_refused(tiny_folder: Path) -> None:
    from tether.base.parts import make_network

    config = json.loads((tiny_folder / "unet" / "config.json").read_text())
    config |= {"layers_per_block": 100, "transformer_layers_per_block": 100}
    assert "100 x 100 layers" in refused(lambda: make_network(config, "a folder"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("conv_in.weight"), "lacks conv_in.weight"),
        (lambda t: t.update(more=torch.zeros(2)), "has unexpected tensors: more"),
        (lambda t: t.update({"conv_in.weight": torch.zeros(3, 3)}), "(3, 3)"),
        (lambda t: t.update({"conv_in.weight": t["conv_in.weight"].long()}), "expected a floating-point type"),
    ],
    ids=["a key is missing", "a key is left over", "a shape is wrong", "a weight is of whole numbers"],
)
def test_a_folder_whose_tensors_are_not_its_networks_is_refused(
    change: Callable[[dict[str, torch.Tensor]], Any], message: str, tiny_folder: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    from tether.base.folder import part_of_folder

    tensors = load_file(tiny_folder / "unet" / "diffusion_pytorch_model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text((tiny_folder / "unet" / "config.json").read_text())
    assert message in refused(lambda: part_of_folder(tmp_path).materialize(None))


def test_an_index_of_shards_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    from tether.files.checkpoints import open_shards

    save_file({"a": torch.zeros(2)}, tmp_path / "secret.safetensors")
    (tmp_path / "in").mkdir()
    index = tmp_path / "in" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    assert "outside its folder" in refused(lambda: open_shards(index))
