"""PyTorch's zip files, read without running anything that is in them.

The table is a pickle, and a pickle is a program. It is read twice: once as text, where it may call nothing but what
rebuilds tensors and dictionaries, and then by PyTorch's own reader for weights, which knows no other calls either.
The bytes are mapped: a member that is compressed cannot be, so that no zip bomb is ever unpacked, and storages that
are mapped cannot grow, so that no shape can be larger than the file.

The first Stable Diffusion files were saved by PyTorch Lightning, with its callbacks beside the tensors. What those
name (`BYSTANDERS`) is not imported: an object that does nothing stands in for each.
"""

from __future__ import annotations

import pickletools
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from tether.errors import TetherError

__all__ = ["read_torch_zip"]

MAX_PICKLE = 2**20
"""The table of a whole SD 1.5 with its EMA is 0.3 MB. One of this size made of nothing but lists takes 75 MB."""
MAX_SHARING = 2
"""Tensors may share their numbers, as tied weights do: so many times the file's size they may be together."""
MAX_DIRECTORY = 16 * 2**20
MAX_MEMBERS = 100_000

_KINDS = ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")
ALLOWED_CALLS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {kind}Storage" for kind in _KINDS),
}
BYSTANDERS = (
    ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
)
"""(module, name) of what Lightning's callbacks are made of: their class, and the best loss so far as NumPy's number."""


class _StandIn:
    """Is made from anything, keeps nothing."""

    def __new__(cls, *args: Any) -> _StandIn:
        return object.__new__(cls)

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


_STAND_INS = [type(name, (_StandIn,), {"__module__": module}) for module, name in BYSTANDERS]

INNER_TABLES = ("state_dict", "string_to_param", "module", "model")
"""Under which names trainers put the tensors when they save other things beside them."""


def read_torch_zip(path: Path) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The tensors of a PyTorch zip file, mapped, and the numbers beside them (`global_step`, ...).

    Raises:
        TetherError: where it is damaged, compressed, or holds anything but tensors.
    """
    _check_program(path, _read_table(path))
    try:
        with torch.serialization.safe_globals(_STAND_INS):  # type: ignore[arg-type] # classes are callables
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # whatever a hostile table makes PyTorch's reader stumble over
        line = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise TetherError(f"{path} is damaged, or lies about its tensors: {line[:160]}") from None
    return _flat(path, content)


def _read_table(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            _check_directory(path, file)
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                tables = [member for member in members if member.filename.endswith("/data.pkl")]
                if len(tables) != 1:
                    raise TetherError(f"{path} is a zip file, but not one of PyTorch's: it has no table of tensors")
                packed = [member for member in members if member.compress_type != zipfile.ZIP_STORED]
                if packed:
                    raise TetherError(
                        f"{path} is compressed ({packed[0].filename}: {packed[0].compress_size:,} bytes that become "
                        f"{packed[0].file_size:,}), which PyTorch never does: refused"
                    )
                if tables[0].file_size > MAX_PICKLE:
                    raise TetherError(
                        f"{path} has a table of {tables[0].file_size:,} bytes: at most {MAX_PICKLE:,} are believed"
                    )
                return archive.read(tables[0])
    except (
        OSError,
        zipfile.BadZipFile,
        ValueError,
        EOFError,
        NotImplementedError,
        RuntimeError,
        struct.error,
    ) as error:
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise TetherError(f"{path} is damaged or cut short: {line[:160]}") from None


def _check_directory(path: Path, file: BinaryIO) -> None:
    """The list of members is read whole by any reader of zip files: refuse one that is absurdly long."""
    size = file.seek(0, 2)
    file.seek(max(0, size - 65_557))
    tail = file.read()
    file.seek(0)
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or len(tail) - found < 22:
        raise TetherError(f"{path} is cut short: the list of what it holds, at its end, is missing")
    count, length = struct.unpack_from("<HI", tail, found + 10)
    if length == 0xFFFFFFFF or count == 0xFFFF:  # the numbers are in the 64-bit record before
        record = tail.rfind(b"PK\x06\x06", 0, found)
        if record < 0 or len(tail) - record < 56:
            raise TetherError(f"{path} is damaged: the list of what it holds does not say how long it is")
        count, length = struct.unpack_from("<QQ", tail, record + 32)
    if length > min(size, MAX_DIRECTORY) or count > MAX_MEMBERS:
        raise TetherError(f"{path} claims to hold {count:,} files, listed in {length:,} bytes: refused")


def _check_program(path: Path, table: bytes) -> None:
    """Reads the pickle's instructions without following them."""
    try:
        for instruction, argument, _ in pickletools.genops(table):
            known = argument in ALLOWED_CALLS or tuple(str(argument).split(" ")) in BYSTANDERS
            if instruction.name in ("GLOBAL", "INST") and not known:
                raise TetherError(
                    f"{path} holds more than tensors: its pickle calls {str(argument).replace(' ', '.')[:80]}, which "
                    "could run code; refused (open it where you trust it and save the tensors as safetensors)"
                )
            if instruction.name in ("STACK_GLOBAL", "OBJ", "EXT1", "EXT2", "EXT4"):
                raise TetherError(f"{path} hides what its pickle calls ({instruction.name}): refused")
    except (ValueError, IndexError, UnicodeDecodeError, struct.error, OverflowError) as error:
        raise TetherError(f"{path} is damaged: its table breaks off ({str(error).splitlines()[0][:120]})") from None


def _flat(path: Path, content: Any) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The one dictionary of tensors in what a trainer saved, however deep it put it."""
    numbers: dict[str, float] = {}
    for _ in range(3):
        if not isinstance(content, dict):
            raise TetherError(f"{path} holds a {type(content).__name__}: expected a dictionary of tensors")
        numbers |= {
            key: value
            for key, value in content.items()
            if isinstance(key, str) and isinstance(value, (int, float)) and not isinstance(value, bool)
        }
        inner = next((content[name] for name in INNER_TABLES if isinstance(content.get(name), dict)), None)
        if inner is None:
            break
        content = inner
    tensors = {}
    for name, value in content.items():
        if isinstance(value, Tensor):
            tensors[str(name)] = _plain(path, str(name), value)
    if not tensors:
        raise TetherError(f"{path} holds no tensors")
    claimed, size = sum(t.numel() * t.element_size() for t in tensors.values()), path.stat().st_size
    if claimed > MAX_SHARING * size:  # each alone fits in the file, but they all are the same few bytes
        raise TetherError(f"{path} lies about its tensors: {claimed:,} bytes of them in a file of {size:,}")
    return tensors, numbers


def _plain(path: Path, name: str, tensor: Tensor) -> Tensor:
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        raise TetherError(f"{path} holds {name} in a form that is not plain numbers: refused")
    # A stride of zero makes one number look like any number of them.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise TetherError(f"{path} lies about {name}: {tuple(tensor.shape)} are more numbers than the file has")
    return tensor.detach()
