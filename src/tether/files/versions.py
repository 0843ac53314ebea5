"""Versions of packages, as pictures, reports and caches note them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import tether

__all__ = ["version_of"]

OURS = "tether-control"


def version_of(package: str) -> str:
    """The version of an installed package; "not installed" if there is none.

    Tether has one that is not installed too: it may be run from its source tree.
    """
    try:
        return version(package)
    except PackageNotFoundError:
        return tether.__version__ if package == OURS else "not installed"
