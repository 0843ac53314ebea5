"""Reads PyTorch's zip files without running any code in them.

The table is a pickle, which is a program. It is read twice: first its instructions are scanned, and may only call what
rebuilds tensors and dictionaries; then PyTorch's weights-only unpickler runs it, which allows no other calls either.
The bytes are mapped. Compressed members cannot be mapped, so a zip bomb is never unpacked, and mapped storages cannot
grow, so no shape can be larger than the file.

The first Stable Diffusion files were saved by PyTorch Lightning, with its callbacks beside the tensors. The classes of
those (`BYSTANDERS`) are not imported: an object that does nothing replaces each.
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
"""The table of SD 1.5 with its EMA has 0.3 MB. One of this size made of lists only takes 75 MB of memory."""
MAX_SHARING = 2
"""Tensors may share storage, as tied weights do: all of them together may be so many times as large as the file."""
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
"""(module, name) of the objects in Lightning's callbacks: their class, and the best loss as a NumPy scalar."""


class _StandIn:
    """Accepts any arguments and stores nothing."""

    def __new__(cls, *args: Any) -> _StandIn:
        return object.__new__(cls)

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


_STAND_INS = [type(name, (_StandIn,), {"__module__": module}) for module, name in BYSTANDERS]

INNER_TABLES = ("state_dict", "string_to_param", "module", "model")
"""Keys under which trainers save the tensors when they save other things beside them."""


def read_torch_zip(path: Path) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The tensors of a PyTorch zip file, mapped, and the numbers beside them (`global_step`, ...).

    Raises:
        TetherError: if it is damaged, compressed, or contains anything but tensors.
    """
    _check_program(path, _read_table(path))
    try:
        with torch.serialization.safe_globals(_STAND_INS):  # type: ignore[arg-type] # classes are callables
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # a hostile table can make PyTorch's unpickler raise anything
        line = (str(error) or type(error).__name__).strip().splitlines()[0]
        if line.startswith("Weights only load failed"):  # followed by advice to load the file without any checks
            line = "its table is invalid"
        raise TetherError(f"{path} is damaged or inconsistent: {line[:160]}") from None
    return _flat(path, content)


def _read_table(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            _check_directory(path, file)
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                tables = [member for member in members if member.filename.endswith("/data.pkl")]
                if len(tables) != 1:
                    raise TetherError(f"{path} is a zip file, but not a PyTorch file: it has no table of tensors")
                packed = [member for member in members if member.compress_type != zipfile.ZIP_STORED]
                if packed:
                    raise TetherError(
                        f"{path} is refused: it is compressed, which PyTorch never does ({packed[0].filename}: "
                        f"{packed[0].compress_size:,} bytes, {packed[0].file_size:,} unpacked)"
                    )
                if tables[0].file_size > MAX_PICKLE:
                    raise TetherError(
                        f"{path} has a table of {tables[0].file_size:,} bytes: at most {MAX_PICKLE:,} are allowed"
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
        raise TetherError(f"{path} is damaged or truncated: {line[:160]}") from None


def _check_directory(path: Path, file: BinaryIO) -> None:
    """Refuses a very long list of members, which every reader of zip files reads whole."""
    size = file.seek(0, 2)
    file.seek(max(0, size - 65_557))
    tail = file.read()
    file.seek(0)
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or len(tail) - found < 22:
        raise TetherError(f"{path} is truncated: the list of its members, at the end, is missing")
    count, length = struct.unpack_from("<HI", tail, found + 10)
    if length == 0xFFFFFFFF or count == 0xFFFF:  # the numbers are in the 64-bit record before
        record = tail.rfind(b"PK\x06\x06", 0, found)
        if record < 0 or len(tail) - record < 56:
            raise TetherError(f"{path} is damaged: the list of its members has no length")
        count, length = struct.unpack_from("<QQ", tail, record + 32)
    if length > min(size, MAX_DIRECTORY) or count > MAX_MEMBERS:
        raise TetherError(f"{path} is refused: it declares {count:,} members, listed in {length:,} bytes")


def _check_program(path: Path, table: bytes) -> None:
    """Scans the pickle's instructions without running them."""
    try:
        for instruction, argument, _ in pickletools.genops(table):
            known = argument in ALLOWED_CALLS or tuple(str(argument).split(" ")) in BYSTANDERS
            if instruction.name in ("GLOBAL", "INST") and not known:
                raise TetherError(
                    f"{path} is refused: its pickle calls {str(argument).replace(' ', '.')[:80]}, which could run code "
                    "(if you trust it, save its tensors as safetensors)"
                )
            if instruction.name in ("STACK_GLOBAL", "OBJ", "EXT1", "EXT2", "EXT4"):
                raise TetherError(f"{path} is refused: its pickle hides what it calls ({instruction.name})")
    except (ValueError, IndexError, UnicodeDecodeError, struct.error, OverflowError) as error:
        raise TetherError(f"{path} is damaged: its table is incomplete ({str(error).splitlines()[0][:120]})") from None


def _flat(path: Path, content: Any) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The dictionary of tensors in what a trainer saved, at the top or nested."""
    numbers: dict[str, float] = {}
    for _ in range(3):
        if not isinstance(content, dict):
            raise TetherError(f"{path} contains a {type(content).__name__}: expected a dictionary of tensors")
        numbers |= {
            key: value
            for key, value in content.items()
            if isinstance(key, str) and isinstance(value, (int, float)) and not isinstance(value, bool)
        }
        inner = next((content[name] for name in INNER_TABLES if isinstance(content.get(name), dict)), None)
        if inner is None:
            break
        content = inner
    tensors = {
        str(name): _plain(path, str(name), value) for name, value in content.items() if isinstance(value, Tensor)
    }
    if not tensors:  # an IP-Adapter has two tables, both under names of its own
        tables = {name: table for name, table in content.items() if isinstance(table, dict)}
        inner = {f"{name}.{key}": value for name, table in tables.items() for key, value in table.items()}
        tensors = {name: _plain(path, name, value) for name, value in inner.items() if isinstance(value, Tensor)}
    if not tensors:
        raise TetherError(f"{path} contains no tensors")
    claimed, size = sum(t.numel() * t.element_size() for t in tensors.values()), path.stat().st_size
    if claimed > MAX_SHARING * size:  # each fits in the file, but they all share the same bytes
        raise TetherError(f"{path} is inconsistent: it declares {claimed:,} bytes of tensors in a file of {size:,}")
    return tensors, numbers


def _plain(path: Path, name: str, tensor: Tensor) -> Tensor:
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        raise TetherError(f"{path} is refused: {name} is not a dense tensor")
    # With a stride of zero, one value would pass for any number of them.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise TetherError(f"{path} is inconsistent: {name} has shape {tuple(tensor.shape)}, larger than its storage")
    return tensor.detach()
