"""Names on the hub, without a network: found in the cache, or refused with the reason."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tether.errors import TetherError
from tether.files import hub


@pytest.fixture(autouse=True)
def answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing asks for the network."""
    monkeypatch.setattr(hub.socket, "create_connection", lambda *_, **__: SimpleNamespace(close=lambda: None))


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(home: Path, repo: str, folder: Path, revision: str = "main") -> None:
    """Puts a folder where huggingface_hub keeps what it downloaded."""
    place = home / "hub" / f"models--{repo.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / COMMIT)
    (place / "refs").mkdir()
    (place / "refs" / revision).write_text(COMMIT)


def offline(home: Path, program: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    env.pop("HF_HUB_CACHE", None)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env)


def test_a_base_in_the_cache_opens_offline_at_its_revision(tiny_folder: Path, tmp_path: Path) -> None:
    cached(tmp_path, "someone/tiny", tiny_folder, revision="v2")
    program = (
        "from tether.base import load_base\n"
        "from tether.errors import TetherError\n"
        "print(load_base('someone/tiny@v2').name, load_base('someone/tiny', revision='v2').source.name)\n"
        "for name in ('someone/tiny', 'someone/other'):\n"
        "    try:\n"
        "        load_base(name)\n"
        "    except TetherError as error:\n"
        "        print(error)\n"
    )
    run = offline(tmp_path, program)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0] == f"someone/tiny@v2 {COMMIT}"
    assert len(lines) == 3
    assert all("not in the cache" in line for line in lines[1:])


def test_one_file_of_a_repository_is_found_in_the_cache(tmp_path: Path) -> None:
    (tmp_path / "repo" / "deep").mkdir(parents=True)
    (tmp_path / "repo" / "deep" / "control canny.safetensors").write_bytes(b"x" * 20)
    cached(tmp_path, "someone/controls", tmp_path / "repo")
    program = (
        "from tether.files.hub import find\n"
        "print(find('someone/controls/deep/control canny.safetensors', 'control').read_bytes().decode())\n"
    )
    assert offline(tmp_path, program).stdout == "x" * 20 + "\n"


def test_what_is_here_comes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert hub.find("owner/name", "base") == Path("owner/name")


@pytest.mark.parametrize(
    "ref", ["/nowhere/at/all", "./nowhere", "../x/y", "one", "a/b.safetensors", "a/b/", "a//b", ""]
)
def test_what_is_neither_a_path_nor_a_name_never_reaches_the_hub(ref: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*_: object, **__: object) -> None:
        raise AssertionError("asked the hub")

    monkeypatch.setattr(hub, "snapshot_download", reached)
    monkeypatch.setattr(hub, "hf_hub_download", reached)
    with pytest.raises(TetherError, match="no base at"):
        hub.find(ref, "base")


def snapshots(repository: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for the hub: puts what is asked for into a folder, and lists it."""
    from huggingface_hub.utils import filter_repo_objects

    fetched: list[str] = []

    def download(
        repo: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str], **_: bool
    ) -> str:
        names = filter_repo_objects(repository, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
        for name in names:
            if not (home / name).exists():
                (home / name).parent.mkdir(parents=True, exist_ok=True)
                (home / name).write_text(repository[name])
                fetched.append(name)
        return str(home)

    monkeypatch.setattr(hub, "snapshot_download", download)
    monkeypatch.setattr(hub, "list_repo_files", lambda repo, *, revision: list(repository))
    return fetched


def files(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "{}")


BASE = files("model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json", "big.safetensors")


@pytest.mark.parametrize("what", ["base", "model", "autoencoder"])
def test_of_a_base_the_weights_of_its_parts_are_fetched_once_and_no_single_file(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = files("unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors")
    wanted |= files("text_encoder/model.safetensors")
    unwanted = files("unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.bin")
    fetched = snapshots(BASE | wanted | unwanted, tmp_path, monkeypatch)
    hub.find("someone/base", what)
    assert sorted(fetched) == sorted({**BASE, **wanted}.keys() - {"big.safetensors"})


def test_a_part_that_has_only_pytorch_files_is_fetched_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = files("unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.bin")
    fetched = snapshots(BASE | mixed | files("text_encoder/model.fp16.safetensors"), tmp_path, monkeypatch)
    hub.find("someone/base", "base")
    assert set(mixed) <= set(fetched)
    assert "text_encoder/model.fp16.safetensors" in fetched


def test_a_collection_of_single_files_is_not_fetched_whole_for_a_control(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = snapshots(files("README.txt", "canny.safetensors", "depth.safetensors"), tmp_path, monkeypatch)
    hub.find("someone/collection", "control")
    assert fetched == ["README.txt"]
    with pytest.raises(
        TetherError, match=r"2 files that may be the LoRA: name one of them \(canny\.safetensors, depth"
    ):
        hub.find("someone/collection", "LoRA", any_file=True)
    assert fetched == ["README.txt"]


@pytest.mark.parametrize("more", [(), ("config.json",), ("model_index.json", "unet/model.safetensors", "old.bin")])
def test_the_one_file_of_a_lora_is_fetched_whatever_else_is_there(
    more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("my lora [2].safetensors", "adapter_config.json", "samples/a.png")
    fetched = snapshots(files(*names, *more), tmp_path, monkeypatch)
    assert hub.find("someone/lora", "LoRA", any_file=True) == tmp_path
    weights = {name for name in fetched if name.endswith((".safetensors", ".bin", ".png"))}
    assert weights == {"my lora [2].safetensors"}
    assert "adapter_config.json" in fetched


def test_a_lora_whose_files_cannot_be_listed_is_looked_for_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise hub.OfflineModeIsEnabled("offline")

    fetched = snapshots(files("lora.safetensors"), tmp_path, monkeypatch)
    monkeypatch.setattr(hub, "list_repo_files", refuse)
    assert hub.find("someone/lora", "LoRA", any_file=True) == tmp_path
    assert fetched == ["lora.safetensors"]


def test_a_repository_with_weights_in_folders_alone_names_them() -> None:
    with pytest.raises(TetherError, match=r"contains 0 files that may be the LoRA: name one of them \(sub/a\.bin\)"):
        hub.only_file(["README.md", "sub/a.bin"], "someone/lora", "LoRA")


def test_what_another_program_fetched_is_enough_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Incomplete(hub.LocalEntryNotFoundError):
        snapshot_path = str(tmp_path)

    def download(*_: object, **__: object) -> str:
        raise Incomplete("some files are missing")

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert hub.find("someone/base", "base") == tmp_path


@pytest.mark.parametrize("error", [hub.EntryNotFoundError("x"), hub.LocalEntryNotFoundError("x"), OSError("broken")])
def test_a_file_beside_another_may_be_missing_but_not_fail(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(hub, "hf_hub_download", download)
    if isinstance(error, hub.EntryNotFoundError):
        assert not hub.fetch_beside("someone/base/a.safetensors", "config.json", "control")
    else:
        with pytest.raises(TetherError, match=r"the hub does not answer \(broken\)"):
            hub.fetch_beside("someone/base/a.safetensors", "config.json", "control")


def test_a_broken_connection_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> str:
        raise Exception("the other side\nclosed the connection")

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(TetherError, match="does not answer") as caught:
        hub.find("someone/base", "base")
    assert len(str(caught.value).splitlines()) == 1


@pytest.fixture
def never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*_: object, **__: object) -> None:
        raise AssertionError("asked the hub")

    for name in ("snapshot_download", "hf_hub_download", "list_repo_files", "_reachable"):
        monkeypatch.setattr(hub, name, reached)


@pytest.mark.usefixtures("never_asked")
@pytest.mark.parametrize(
    ("ref", "meant"),
    [
        ("models/sd15", "models/sd-15"),
        ("models/sd-15.safetensor", "models/sd-15.safetensors"),
        ("modles/sd-15", "models/sd-15"),
        ("models/deep/x/y.safetensors", None),
        ("./models/canni.safetensors", "models/canny.safetensors"),
        ("models/other/thing", None),
        ("cany.safetensors", None),
    ],
)
def test_a_mistyped_path_is_said_at_once_with_what_is_beside_it(
    ref: str, meant: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "sd-15").mkdir(parents=True)
    for name in ("sd-15.safetensors", "canny.safetensors"):
        (tmp_path / "models" / name).touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TetherError, match="there is no such file or folder") as caught:
        hub.find(ref, "base")
    assert ("did you mean" in str(caught.value)) == (meant is not None)
    if meant is not None:
        assert f"did you mean {meant}?" in str(caught.value)


def test_where_the_hub_cannot_be_reached_the_cache_alone_is_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route")

    def download(*_: object, local_files_only: bool = False, **__: object) -> str:
        asked.append(local_files_only)
        raise hub.LocalEntryNotFoundError("not in the cache")

    monkeypatch.setattr(hub.socket, "create_connection", unreachable)
    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(TetherError, match="not in the cache, and the hub cannot be reached"):
        hub.find("someone/base", "base")
    assert asked == [True]
