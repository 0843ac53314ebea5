"""How threads wait, and how many there are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tether.cli import threads


@pytest.fixture
def quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that says how much a container may use."""
    file = tmp_path / "cpu.max"
    monkeypatch.setattr(threads, "QUOTAS", ((file, None),))
    return file


def settled(cores: int = 8, **given: str) -> dict[str, str]:
    environment = dict(given)
    threads.settle(environment, cores)
    return environment


def test_threads_sleep_while_they_wait_and_stay_as_many(quota: Path) -> None:
    assert settled() == {"OMP_WAIT_POLICY": "PASSIVE"}


@pytest.mark.parametrize("given", [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "9", "OMP_NUM_THREADS": "3"}])
def test_what_the_user_set_stays(given: dict[str, str], quota: Path) -> None:
    quota.write_text("100000 100000\n")
    found = settled(**given)
    assert {name: found[name] for name in given} == given
    assert "PASSIVE" not in found.values()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("150000 100000\n", "2"),
        ("10000 100000\n", "1"),
        ("800000 100000\n", None),
        ("max 100000\n", None),
        ("", None),
        ("-1\n", None),
    ],
)
def test_a_container_with_fewer_cores_than_it_sees_gets_fewer_threads(
    text: str, expected: str | None, quota: Path
) -> None:
    quota.write_text(text)
    assert settled().get("OMP_NUM_THREADS") == expected


def test_the_older_form_of_a_quota_is_in_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = tmp_path / "quota", tmp_path / "period"
    monkeypatch.setattr(threads, "QUOTAS", ((one, other),))
    one.write_text("300000\n")
    other.write_text("100000\n")
    assert settled()["OMP_NUM_THREADS"] == "3"


def test_the_command_sets_it_and_the_library_does_not() -> None:
    program = (
        "import os, sys\n"
        "os.environ.pop('OMP_WAIT_POLICY', None), os.environ.pop('GOMP_SPINCOUNT', None)\n"
        "import tether; sys.argv = ['tether', '--version']\n"
        "assert 'OMP_WAIT_POLICY' not in os.environ\n"
        "from tether.cli import main\n"
        "try: main()\nexcept SystemExit: print(os.environ['OMP_WAIT_POLICY'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["PASSIVE"], done.stderr
