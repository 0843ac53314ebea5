"""Which run `tether train --resume` means."""

from __future__ import annotations

from pathlib import Path

from tether.errors import TetherError
from tether.training.checkpoints import list_checkpoints
from tether.training.config import CONFIG

__all__ = ["LATEST", "find_run"]

LATEST = "latest"


def find_run(ref: str | Path, out: Path | None = None) -> Path:
    """The folder of a run.

    Args:
        ref: the run's folder, or something in it: its `config.yaml`, `checkpoints`, the latest checkpoint, `control`;
            or "latest": the run in `out`, and without it that below the current folder which was changed last.
        out: where the user expects the run.

    Raises:
        TetherError: when there is no such run, it is not in `out`, or the checkpoint is not the run's latest.
    """
    if str(ref) == LATEST and not Path(ref).exists():
        return _latest() if out is None else find_run(out)
    path = Path(ref)
    run = next((folder for folder in (path, path.parent, path.parent.parent) if (folder / CONFIG).is_file()), None)
    if run is None:
        raise TetherError(f"there is no run to resume at {ref}: expected its folder, with {CONFIG} in it, or 'latest'")
    if out is not None and out.resolve() != run.resolve():
        raise TetherError(f"--resume {ref} goes on in {run}, and --out is {out}: leave --out out")
    if path.parent.name == "checkpoints":
        found = list_checkpoints(path.parent)
        if found and found[-1].name != path.name:
            raise TetherError(
                f"{run} goes on from its latest checkpoint, {found[-1].name}: move the later ones away to go back to "
                f"{path.name}, or begin another run with start_from={path}"
            )
    return run


def _latest() -> Path:
    """The run below the current folder whose checkpoints were changed last."""
    here = Path()
    folders = [path.parent for depth in ("", "*/", "*/*/") for path in here.glob(f"{depth}{CONFIG}")]
    runs = [folder for folder in folders if (folder / "checkpoints").is_dir()]
    if not runs:
        raise TetherError(f"there is no run to resume below {here.resolve()}: give --resume RUN")
    return max(runs, key=lambda folder: (folder / "checkpoints").stat().st_mtime_ns)
