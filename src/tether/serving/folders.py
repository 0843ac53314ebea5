"""The files of jobs, beside the database.

    DATA/jobs.sqlite             or DATA/database, the name of these files in PostgreSQL
    DATA/jobs/ID/request.json    what was accepted
    DATA/jobs/ID/map-0.png       the condition map of control 0, as it was drawn
    DATA/jobs/ID/0.png           image 0; it carries its request

A request is on disk before its job is in the database, and a job leaves the database before its files are deleted: a
process that ends between the two leaves a folder that no job knows, which the next start removes.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from tether.errors import TetherError
from tether.files.atomic import atomic_write, remove_leftovers, write_text
from tether.serving.store import JobStore

__all__ = ["DATABASE", "JobFolders"]

DATABASE = "jobs.sqlite"
MARK = "database"
"""The file that says which database the jobs are in, where it is not `DATABASE`."""


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

    def belong_to(self, jobs: str | None) -> None:
        """Says whose files these are, so that no server deletes another's, whose jobs it does not know.

        Args:
            jobs: the name of the folder in a shared database; None for that of one server.

        Raises:
            TetherError: when they are another's.
        """
        mark, elsewhere = self.root.parent / MARK, "give its --database, or another folder"
        said = mark.read_text().strip() if mark.is_file() else None
        if jobs is None and said is not None:
            raise TetherError(f"--data {mark.parent} has the jobs of a database: {elsewhere}")
        if jobs is not None and (mark.parent / DATABASE).exists():
            raise TetherError(f"--data {mark.parent} has the jobs of one server ({DATABASE}): give another folder")
        if jobs is not None and said not in (None, jobs):
            raise TetherError(f"--data {mark.parent} has the jobs of another database: {elsewhere}")
        if jobs is not None and said is None:
            write_text(mark, jobs)

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

    def sweep(self, store: JobStore, older: float = 0.0) -> int:
        """Deletes what no job knows, and temporary files.

        Args:
            store: the jobs.
            older: what changed in so many last seconds stays: others may be accepting a job. With 0, no one may.

        Returns:
            How many folders.
        """
        if not older:
            remove_leftovers(self.root)
        names = [path.name for path in self.root.iterdir() if path.is_dir() and _age(path) >= older]
        gone = set(names) - store.known(names)
        for name in gone:
            self.delete(name)
        for name in set(names) - gone if not older else ():
            remove_leftovers(self.root / name)
        return len(gone)


def _age(path: Path) -> float:
    """Seconds since a folder changed; 0 if it is gone."""
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return 0.0
