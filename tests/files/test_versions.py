from importlib import metadata

import pytest

import tether
from tether.files import versions
from tether.files.versions import version_of


def test_versions_are_those_of_the_installed_packages() -> None:
    assert version_of("torch") == metadata.version("torch")
    assert version_of("a-package-that-nobody-has") == "not installed"


def test_a_source_tree_without_an_installation_has_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run with PYTHONPATH=src: pictures could not be drawn, as no metadata said what drew them."""

    def none(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(versions, "version", none)
    assert version_of("tether-control") == tether.__version__
