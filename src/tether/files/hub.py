"""Finds models by path, or by name on the Hugging Face hub.

    owner/name                       a diffusers folder
    owner/name/path/file.safetensors one file of a repository
    ...@revision                     a branch, tag or commit; `main` by default

Downloads go through huggingface_hub with its cache (HF_HOME), token (HF_TOKEN), mirror (HF_ENDPOINT) and offline mode
(HF_HUB_OFFLINE). Local files come first: an existing path is not looked up on the hub, nor is a name whose first part
is a folder here, or nearly the name of one. If the hub's machine does not answer, only the cache is looked through.
"""

from __future__ import annotations

import glob
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants, hf_hub_download, list_repo_files, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tether.errors import TetherError
from tether.files.paths import SUFFIXES, local_path, name_on_hub

__all__ = ["NotThere", "fetch_beside", "find", "only_file"]

SETTINGS = ["*.json", "*.txt", "*.model"]
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
REASONS: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    (
        (LocalEntryNotFoundError, OfflineModeIsEnabled),
        "it is not in the cache, and the hub cannot be reached (or HF_HUB_OFFLINE is set)",
    ),
    ((GatedRepoError,), "access is gated: accept the terms on its page, and log in with hf auth login"),
    (
        (RepositoryNotFoundError,),
        "the hub has no such repository, or it is private (log in with hf auth login)",
    ),
    ((RevisionNotFoundError,), "it has no revision {revision}"),
    ((EntryNotFoundError,), "the repository has no such file"),
    ((HFValidationError,), "it is not a valid name on the hub"),
)
"""Errors of huggingface_hub -> the reason in messages; subclasses come before their bases."""
CONNECT_SECONDS = 5
NOT_NEEDED = ["safety_checker/*", "feature_extractor/*", "*onnx*", "*openvino*", "*flax*", "*non_ema*", "*.msgpack"]


class NotThere(TetherError):
    """The hub has no such file, or the cache has none and the hub cannot be reached."""


def find(
    ref: str | Path, what: str, revision: str | None = None, *, any_file: bool = False, weights: str | None = None
) -> Path:
    """The local path of a file or folder, which is downloaded if `ref` is a name on the hub.

    Args:
        ref: a path, or a name on the hub.
        what: "base" or "control", for messages.
        revision: a branch, tag or commit; takes precedence over one in `ref`.
        any_file: of a repository, download the one file of weights at its top, whatever its name.
        weights: the names of the weights without their suffix, a pattern, where they are not those of diffusers.

    Raises:
        TetherError: if it is neither, the download fails, or `any_file` and there are several, or none.
    """
    path = local_path(ref)
    if path is not None:
        return path
    name = name_on_hub(ref, what)
    revision = revision or name["revision"]
    only_cache = not _reachable()
    try:
        if name["file"] is not None:
            return Path(
                hf_hub_download(name["repo"], name["file"].strip("/"), revision=revision, local_files_only=only_cache)
            )
        if any_file:
            return _folder_of_file(ref, name["repo"], what, revision, only_cache)
        return _folder(name["repo"], revision, only_cache, weights)
    except TetherError:
        raise
    except Exception as error:  # the HTTP library under huggingface_hub can raise anything
        reason = _reason(error, revision)
        kind = NotThere if isinstance(error, (EntryNotFoundError, OfflineModeIsEnabled)) else TetherError
    raise kind(f"no {what} at {ref}: there is no such file or folder here, and {reason}")


def fetch_beside(ref: str | Path, name: str, what: str, revision: str | None = None) -> bool:
    """Downloads another file of the same folder, if `ref` names a file on the hub.

    Args:
        ref, what, revision: as for `find`.
        name: of the other file.

    Returns:
        Whether there is such a file; False for a path, and for a whole repository, which `find` downloads with it.

    Raises:
        TetherError: if the download fails for another reason than that there is none.
    """
    if local_path(ref) is not None:
        return False
    found = name_on_hub(ref, what)
    if found["file"] is None:
        return False
    text, (start, end) = str(ref), found.span("file")
    folder = found["file"].rpartition("/")[0]
    with suppress(NotThere):
        find(f"{text[:start]}{folder}/{name}{text[end:]}", what, revision)
        return True
    return False


def _reachable() -> bool:
    """Whether the hub's machine answers; huggingface_hub itself would try for most of a minute.

    A name is looked up and one connection opened, unless a proxy does both, or offline mode is on.
    """
    if constants.HF_HUB_OFFLINE or getproxies():
        return True
    place = urlsplit(constants.ENDPOINT)
    try:
        port = place.port or (80 if place.scheme == "http" else 443)
        socket.create_connection((place.hostname or "", port), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError):
        return False
    return True


def _reason(error: Exception, revision: str | None) -> str:
    """Why the hub did not give a file, for messages."""
    for kinds, reason in REASONS:
        if isinstance(error, kinds):
            return reason.format(revision=revision)
    return f"the hub does not answer ({str(error).splitlines()[0][:120] if str(error) else type(error).__name__})"


def only_file(names: Iterable[str], ref: str | Path, what: str) -> str:
    """The one file of weights at the top of a folder or repository.

    Args:
        names: of its files, with "/" for those in folders.
        ref, what: its name and what the file should be, for messages.

    Raises:
        TetherError: if there are several, or none, naming some.
    """
    names = sorted(names)
    top = [name for name in names if "/" not in name]
    files = [n for n in top if n.endswith(".safetensors")] or [n for n in top if n.endswith(".bin")]
    if len(files) != 1:
        some = files or [name for name in names if name.endswith(SUFFIXES)]
        shown = f" ({', '.join(some[:3])}{', ...' if len(some) > 3 else ''})" if some else ""
        raise TetherError(f"{ref} contains {len(files)} files that may be the {what}: name one of them{shown}")
    return files[0]


def _folder_of_file(ref: str | Path, repo: str, what: str, revision: str | None, only_cache: bool) -> Path:
    """A snapshot with the one file of weights at the top of a repository, and configs.

    Raises:
        TetherError: as `only_file`, before anything is downloaded.
    """
    wanted = ["*.safetensors", "*.bin"]
    names: list[str] = []
    if not only_cache:
        with suppress(Exception):  # the download finds it in the cache all the same, or says why it cannot
            names = list_repo_files(repo, revision=revision)
    if names:
        wanted = [glob.escape(only_file(names, ref, what))]
    return _snapshot(repo, revision, [*SETTINGS, *wanted], [], only_cache)


def _folder(repo: str, revision: str | None, only_cache: bool, weights: str | None = None) -> Path:
    """A snapshot with configs and one format of the weights."""
    folder = _snapshot(repo, revision, SETTINGS, [], only_cache)
    if (folder / "model_index.json").is_file():
        # The weights of a base are in subfolders; the single files at the top of many repositories are another 10 GB.
        stem = "*/*"
    elif (folder / "config.json").is_file():
        stem = weights or "diffusion_pytorch_model*"
    else:
        return folder  # opening it reports what is missing
    for ending, also_not in ((".safetensors", ["*.fp16.*", "*.bf16.*"]), (".safetensors", []), (".bin", [])):
        folder = _snapshot(repo, revision, [*SETTINGS, f"{stem}{ending}"], also_not, only_cache)
        networks = [folder / part for part in PARTS if (folder / part).is_dir()] if stem == "*/*" else [folder]
        if all(any(network.glob(f"*{ending}")) for network in networks):
            break
    return folder


def _snapshot(repo: str, revision: str | None, wanted: list[str], not_wanted: list[str], only_cache: bool) -> Path:
    """The files of a repository that match; without a network, those in the cache."""
    try:
        found = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=wanted,
            ignore_patterns=[*NOT_NEEDED, *not_wanted],
            local_files_only=only_cache,
        )
    except LocalEntryNotFoundError as error:
        found = getattr(error, "snapshot_path", None)  # a part of it was downloaded before
        if found is None:
            raise
    return Path(found)
