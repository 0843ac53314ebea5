"""A PostgreSQL of its own, on loopback, in a folder that is deleted; also `python tests/serving/postgres.py`."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PASSWORD = "tether-test"


def find_postgres() -> Path | None:
    """The folder of its programs; None if it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    on_path = shutil.which("postgres")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


class Postgres:
    """A server with an empty database; as root, it runs as Debian's user postgres, since it refuses to be root.

    Args:
        programs: the folder of its programs.
    """

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._who = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        self.folder = Path(tempfile.mkdtemp(prefix="tether-postgres-"))
        if self._who:
            shutil.chown(self.folder, "postgres", "postgres")
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        made = [programs / "initdb", "-D", self.folder / "data", "-U", "tether", "-A", "scram-sha-256"]
        self._run(*made, "--encoding=UTF8", "--locale=C", f"--pwfile={secret}")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://tether:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def _run(self, *command: object) -> None:
        words = [str(word) for word in command]
        subprocess.run(words, check=True, capture_output=True, cwd=self.folder, timeout=120, **self._who)  # type: ignore[call-overload]

    def start(self) -> None:
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "port": self.port}
        words = [str(self._programs / "postgres"), "-D", str(self.folder / "data")]
        for name, value in settings.items():
            words += ["-c", f"{name}={value}"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log, cwd=self.folder, **self._who)  # type: ignore[call-overload]
        ready = [self._programs / "pg_isready", "-h", "127.0.0.1", "-p", self.port]
        until = time.monotonic() + 60
        while subprocess.run([str(word) for word in ready], capture_output=True).returncode != 0:
            assert time.monotonic() < until, (self.folder / "log").read_text()
            assert self._process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        """Ends it at once, as a power failure would; it can be started again."""
        if self._process is not None:
            self._run(self._programs / "pg_ctl", "-D", self.folder / "data", "-m", "immediate", "stop")
            self._process.wait(60)
            self._process = None

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


if __name__ == "__main__":
    programs = find_postgres()
    assert programs is not None, "install postgresql"
    server = Postgres(programs)
    try:
        server.start()
        print(server.url, flush=True)
        input()
    except (KeyboardInterrupt, EOFError):
        pass
    finally:
        server.close()
