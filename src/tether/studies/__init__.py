"""The paper's experiments (arXiv:2302.05543), re-run: `tether study NAME`.

A study is one file with a `STUDY`, see `tether.studies.study`. Installed packages add theirs by the entry point group
`tether.studies`: `my-study = "my_package.my_study:STUDY"`; a file's path with `:STUDY` serves too
(`tether study my_study.py`).
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

from tether.errors import TetherError
from tether.files.modules import module_of_file
from tether.studies.study import Study

__all__ = ["OWN", "find_study", "studies"]

OWN = {
    "zero-convolution": "tether.studies.zero_convolution",
    "guidance": "tether.studies.guidance",
    "comparison": "tether.studies.comparison",
    "data-size": "tether.studies.data_size",
    "feedback": "tether.studies.feedback",
    "ambiguity": "tether.studies.ambiguity",
    "sudden-convergence": "tether.studies.sudden_convergence",
    "transfer": "tether.studies.transfer",
}
"""Name of a study of this package -> its module."""


def studies() -> dict[str, Study]:
    """All studies by name.

    Raises:
        TetherError: when one of an installed package does not load.
    """
    found = {name: _of_module(module) for name, module in OWN.items()}
    for point in entry_points(group="tether.studies"):
        try:
            found[point.name] = point.load()
        except Exception as error:
            raise TetherError(f"study {point.name!r} ({point.value}) does not load: {error}") from None
    return found


def find_study(name: str) -> Study:
    """A study by its name, or of a Python file, whose code is run.

    Raises:
        TetherError: when there is none.
    """
    if name in OWN:
        return _of_module(OWN[name])
    if name.endswith(".py"):
        return _of_file(Path(name))
    known = studies()
    if name not in known:
        close = get_close_matches(name, known, n=1)
        meant = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(known)}, or a file's path"
        raise TetherError(f"there is no study {name!r}: {meant}")
    return known[name]


def _of_module(module: str) -> Study:
    return import_module(module).STUDY


def _of_file(path: Path) -> Study:
    module = module_of_file(path, "study")
    found = getattr(module, "STUDY", None)
    if not isinstance(found, Study):
        raise TetherError(f"{path} has no STUDY: give it one, a tether.studies.study.Study")
    return found
