"""Writes models: safetensors and PyTorch files, JSON, tokenizers.

A safetensors file is written tensor by tensor, each cast on the way, so that writing needs the memory of one tensor.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tether.errors import TetherError
from tether.files.atomic import atomic_write
from tether.files.folder import NOTES, ORIGINAL_ONLY, is_base_folder, is_control_config, read_json
from tether.files.materialize import FilePages, cast

__all__ = ["check_may_replace", "replacing", "write_json", "write_safetensors", "write_tokenizer", "write_torch"]

CODES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip


FolderOf = Literal["control", "base", "model"]
"""What a folder contains; "model" is either."""
_PAPERS = r"README[^/]*|LICENSE[^/]*|\.gitattributes|(.*/)?\.DS_Store|\.cache/huggingface/.*"
_NETWORK = r"config\.json|(diffusion_pytorch_model|pytorch_model|model)[^/]*\.(safetensors|bin|json)"
_TOKENIZER = r"tokenizer[^/]*\.json|vocab\.json|merges\.txt|special_tokens_map\.json|added_tokens\.json"
OWN: Mapping[str, re.Pattern[str]] = {
    "control": re.compile(rf"{re.escape(NOTES)}|{_NETWORK}|{_PAPERS}"),
    "base": re.compile(
        rf"model_index\.json|{re.escape(ORIGINAL_ONLY)}|{_PAPERS}"
        rf"|(unet|vae|text_encoder|text_encoder_2|safety_checker|image_encoder)/({_NETWORK})"
        rf"|(tokenizer|tokenizer_2)/({_TOKENIZER})"
        r"|scheduler/scheduler_config\.json|feature_extractor/preprocessor_config\.json"
    ),
}
"""The files that Tether, diffusers, the hub and macOS put into the folder of a control or a base."""


@contextmanager
def replacing(target: Path, *, force: bool, folder_of: FolderOf | None = None) -> Iterator[Path]:
    """`atomic_write` for the file or folder of a model, which overwrites no folder but that of such a model.

    Args:
        target: the file or folder to write; missing parents are created.
        force: replace what exists.
        folder_of: what a folder has to contain, and nothing else, to be replaced; by default a file is written.

    Raises:
        TetherError: as `check_may_replace`, and if writing fails.
    """
    check_may_replace(target, force=force, folder_of=folder_of)
    with atomic_write(target, parents=True) as part:
        yield part


def check_may_replace(target: Path, *, force: bool, folder_of: FolderOf | None = None) -> None:
    """Checks that there is nothing at a path, unless it may be replaced; the arguments are those of `replacing`.

    Raises:
        TetherError: if `target` exists and `force` is false, if it is a folder with anything else in it, or if no file
            can have this name.
    """
    try:
        exists = target.absolute().exists()
    except OSError as error:
        raise TetherError(f"{target} cannot be written: {error.strerror or error}") from None
    if exists and not force:
        raise TetherError(f"{target} already exists: use --force to replace it")
    if target.is_dir():
        if folder_of is None:
            raise TetherError(f"refusing to overwrite {target}: it is a folder, expected a file; give another name")
        _check_folder(target, folder_of)


def _check_folder(folder: Path, folder_of: FolderOf) -> None:
    """Checks that nothing is lost with a folder but the model that is replaced.

    Raises:
        TetherError: naming the first entry that is no part of such a model.
    """
    there = _model_in(folder)
    if there is None or folder_of not in (there, "model"):
        if not any(path.is_symlink() or not path.is_dir() for path in folder.rglob("*")):
            return
        raise TetherError(
            f"refusing to overwrite {folder}: it is a folder that contains no {folder_of}; give another name"
        )
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if (path.is_symlink() or not path.is_dir()) and not OWN[there].fullmatch(name):
            reason = "a link" if path.is_symlink() else f"no part of a {there}"
            raise TetherError(
                f"refusing to overwrite {folder}: it contains {name}, which is {reason}; give another name, or move "
                "that away"
            )


def _model_in(folder: Path) -> Literal["control", "base"] | None:
    """What a folder contains, if it is a model.

    Raises:
        TetherError: if its config.json is damaged.
    """
    if is_base_folder(folder):
        return "base"
    config = folder / "config.json"
    try:
        return "control" if config.is_file() and is_control_config(read_json(config)) else None
    except TetherError as error:
        raise TetherError(f"refusing to overwrite {folder}: {error}; give another name") from None


def write_safetensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
    *,
    give_back: bool = False,
) -> int:
    """Writes a safetensors file, and returns its size in bytes.

    Args:
        path: the file, which must not exist.
        tensors: the tensors; their values are checked.
        dtype: what floating-point tensors are cast to; None keeps their dtypes.
        metadata: strings to store beside them.
        give_back: release the pages of mapped tensors once they are written. Only for tensors that were not modified
            since they were opened: a released page is read from its file again.

    Raises:
        TetherError: if a tensor contains NaN or infinity, or does not fit into the dtype.
        OSError: if the file cannot be written.
    """
    # The widest types first, so that every tensor is aligned to its type.
    types = {name: dtype if dtype and tensor.is_floating_point() else tensor.dtype for name, tensor in tensors.items()}
    names = sorted(tensors, key=lambda name: (-types[name].itemsize, name))
    table: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    place = 0
    for name in names:
        size = tensors[name].numel() * types[name].itemsize
        table[name] = {
            "dtype": CODES[types[name]],
            "shape": list(tensors[name].shape),
            "data_offsets": [place, place + size],
        }
        place += size
    header = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    pages = FilePages()
    with path.open("xb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for name in names:
            tensor = cast(tensors[name].detach(), dtype, name, "the source").cpu().contiguous()
            if tensor.numel():
                file.write(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]
            if give_back:
                pages.give_back(tensors[name])
    return 8 + len(header) + place


def write_torch(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> int:
    """Writes PyTorch's zip file of `{"state_dict": tensors}`; otherwise as `write_safetensors`."""
    content = {}
    for name in sorted(tensors):
        tensor = cast(tensors[name].detach(), dtype, name, "the source").cpu()
        # PyTorch saves the whole storage of a view.
        # An empty one has the address of what lies after it in its file, which PyTorch takes for the same storage.
        whole = (
            tensor.numel()
            and tensor.is_contiguous()
            and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        )
        content[name] = tensor if whole else tensor.clone(memory_format=torch.contiguous_format)
    try:
        torch.save({"state_dict": content}, path)
    except RuntimeError as error:
        line = str(error).splitlines()[0][:120]
        # What PyTorch's zip writer says about a full disk.
        full = "writ" in line or "unexpected pos" in line
        raise OSError(f"the disk may be full ({line})" if full else line) from None
    return path.stat().st_size


def write_json(path: Path, content: Any) -> None:
    """Writes indented JSON; missing parent folders are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Writes a tokenizer's folder, with the two files that programs before transformers 5 read beside the new one."""
    tokenizer.save_pretrained(folder)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs, ""]), encoding="utf-8")
