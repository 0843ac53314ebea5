"""The files of jobs, beside the database.

    DATA/jobs.sqlite
    DATA/jobs/ID/request.json    what was accepted
    DATA/jobs/ID/map-0.png       the condition map of control 0, as it was drawn
    DATA/jobs/ID/0.png           image 0; it carries its request

A request is on disk before its job is in the database, and a job leaves the database before its files are deleted: a
process that ends between the two leaves a folder that no job knows, which the next start removes.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tether.errors import TetherError
from tether.files.atomic import atomic_write, remove_leftovers
from tether.serving.store import JobStore

__all__ = ["DATABASE", "JobFolders"]

DATABASE = "jobs.sqlite"


class JobFolders:
    """The folders of jobs.

    Args:
        data: the server's folder; made if it does not exist.

    Raises:
        TetherError: when it cannot be written.
    """

    def __init__(self, data: Path) -> None:
        self.root = data / "jobs"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TetherError(f"--data {data} cannot be written: {error.strerror}") from None

    def keep(self, id: str, text: str) -> None:
        """Writes the request of a new job; it is on disk when this returns.

        Raises:
            TetherError: when it cannot be written.
        """
        with atomic_write(self.root / id) as part:
            part.mkdir()
            (part / "request.json").write_text(text)

    def request(self, id: str) -> str:
        """The request that was kept.

        Raises:
            TetherError: when it cannot be read.
        """
        try:
            return (self.root / id / "request.json").read_text()
        except (OSError, ValueError) as error:
            raise TetherError(f"the request of job {id} cannot be read: {type(error).__name__}") from None

    def image(self, id: str, index: int) -> Path:
        """Where image `index` is, or will be."""
        return self.root / id / f"{index}.png"

    def map(self, id: str, index: int) -> Path:
        """Where the condition map of control `index` is, or will be."""
        return self.root / id / f"map-{index}.png"

    def size(self, id: str) -> int:
        """Bytes of all files of a job."""
        return sum(path.stat().st_size for path in (self.root / id).glob("*") if path.is_file())

    def delete(self, id: str) -> None:
        """Deletes the files of a job that the database no longer has."""
        shutil.rmtree(self.root / id, ignore_errors=True)

    def sweep(self, store: JobStore) -> int:
        """Deletes what no job knows, and temporary files; only while no request is accepted and nothing drawn.

        Returns:
            How many folders.
        """
        remove_leftovers(self.root)
        names = [path.name for path in self.root.iterdir() if path.is_dir()]
        gone = set(names) - store.known(names)
        for name in gone:
            self.delete(name)
        for name in set(names) - gone:
            remove_leftovers(self.root / name)
        return len(gone)
