"""The servers that all contestants share: PostgreSQL and Redis, in a temporary folder, with the settings that they have
after their installation."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for_port(port: int, process: subprocess.Popen, name: str) -> None:
    """Waits until somebody listens."""
    for _ in range(600):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise SystemExit(f"{name} did not start; see its log in {process.args}")


class Postgres:
    """A server of our own, or one that the user named by the URL of a database in which we may create others."""

    def __init__(self, folder: Path, url: str | None) -> None:
        self.process = None
        if url:
            self.base = url
            return
        # It refuses to run as root.
        user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        home = folder / "postgres"
        home.mkdir()
        if user:
            shutil.chown(home, "postgres", "postgres")
            folder.chmod(0o711)
        data, port = home / "data", free_port()
        programs = self.programs()
        subprocess.run([programs / "initdb", "--auth=trust", "--username=postgres", "--pgdata", data],
                       check=True, stdout=subprocess.DEVNULL, cwd="/", **user)
        with open(folder / "postgres.log", "w") as log:
            self.process = subprocess.Popen(
                [programs / "postgres", "-D", data, "-p", str(port), "-k", home, "-c", "listen_addresses=127.0.0.1"],
                stdout=log, stderr=log, cwd="/", **user)
        wait_for_port(port, self.process, "postgres")
        self.base = f"postgres://postgres@127.0.0.1:{port}/postgres"
        for _ in range(600):
            if subprocess.run(["psql", "-qAtc", "SELECT 1", self.base], capture_output=True).returncode == 0:
                return
            time.sleep(0.05)
        raise SystemExit("postgres takes no connections")

    @staticmethod
    def programs() -> Path:
        """Where the newest server's programs are."""
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
        where = found[-1] if found else shutil.which("initdb")
        if not where:
            raise SystemExit("there is no PostgreSQL server here; install one or name a --database")
        return Path(where).parent

    def sql(self, *statements: str) -> str:
        """Runs statements one after the other; what the last one said."""
        command = ["psql", "-v", "ON_ERROR_STOP=1", "-qAt", self.base]
        for statement in statements:
            command += ["-c", statement]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def fresh(self, name: str) -> str:
        """A new database of this name; what others left to be written is written before."""
        self.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", f"CREATE DATABASE {name}", "CHECKPOINT")
        return self.base.rsplit("/", 1)[0] + f"/{name}"

    def drop(self, name: str) -> None:
        self.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def about(self) -> dict[str, str]:
        """Its version and the settings that decide what a commit costs."""
        names = ("server_version", "fsync", "full_page_writes", "max_wal_size", "shared_buffers", "synchronous_commit")
        return {name: self.sql(f"SHOW {name}") for name in names}

    def stop(self) -> None:
        if self.process:
            # A fast shutdown.
            self.process.send_signal(signal.SIGINT)
            self.process.wait()


class Redis:
    """A server of our own, which is empty."""

    def __init__(self, folder: Path) -> None:
        if not shutil.which("redis-server"):
            raise SystemExit("there is no redis-server here; install one or leave celery out with --contestants")
        home, port = folder / "redis", free_port()
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        with open(folder / "redis.log", "w") as log:
            self.process = subprocess.Popen(
                ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", home], stdout=log, stderr=log)
        wait_for_port(port, self.process, "redis-server")
        self.url = f"redis://127.0.0.1:{port}/0"

    def __enter__(self) -> Redis:
        return self

    def __exit__(self, *_: object) -> None:
        # Nobody needs what it would save.
        self.process.kill()
        self.process.wait()
