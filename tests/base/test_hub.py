"""Names on the hub, without a hub: from the cache, and what is said when they are not in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tether.base import hub
from tether.errors import TetherError

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
        "from tether.base.hub import find\n"
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
