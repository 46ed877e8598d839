"""Sanafarm beside job queues: the same number of jobs, each with a stored result, on the same servers and machine.

    apt-get install redis-server postgresql nodejs npm
    cargo build --release -p sanafarm-tests --bin farm-bench
    python benches/compare_queues --peers /tmp/peers                      # installs the peers there; the run takes some minutes
    python benches/compare_queues --peers /tmp/peers --contestants sanafarm pg-boss --jobs 20000 --rounds 1

A job is a prompt of about 90 bytes that takes no time; its result is a row, or a value in Redis, of about 800 bytes. All jobs
are put in first and drained afterwards; both are timed apart: enqueueing to the answer after the last job, draining from the
moment the workers begin to the last stored result and an empty queue. graphile-worker and pg-boss keep their jobs in
PostgreSQL and store a row for each job in a table beside them; pg-boss does so in the transaction that completes a batch.
Celery keeps both in Redis, in memory. Sanafarm is farm-bench: a real coordinator over gRPC, simulated workers with a synthetic
engine, prompts, images, shards, results and history in PostgreSQL. `celery-chunks` sends 32 jobs as one message with one
result for all of them.

Contestants run by turns, each in a fresh database; who begins changes with each round. PostgreSQL and Redis have the settings
of their installation, so that PostgreSQL is durable (fsync) and Redis saves now and then. The table shows medians; a ratio
above 1 says that Sanafarm does more jobs a second.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import contestants
from contestants import OURS, Run
from servers import Postgres

ROOT = Path(__file__).resolve().parent.parent.parent


def arguments(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="compare_queues", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True, help="folder for the peers; installed there when absent")
    parser.add_argument("--jobs", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=64, help="simulated workers of farm-bench")
    parser.add_argument("--contestants", nargs="+", choices=names, default=names)
    parser.add_argument("--database", help="URL of a database on a server where others may be made; default: an own server")
    parser.add_argument("--bench", type=Path, default=ROOT / "target/release/farm-bench")
    parser.add_argument("--json", action="store_true", help="print one JSON object with all runs")
    return parser.parse_args()


def measure(args: argparse.Namespace, settings: dict[str, dict]) -> tuple[dict[str, list[Run]], dict[str, str]]:
    """All runs by turns, and what the server says of itself."""
    runs: dict[str, list[Run]] = {name: [] for name in args.contestants}
    with tempfile.TemporaryDirectory(prefix="compare-queues-") as name:
        folder = Path(name)
        postgres = Postgres(folder, args.database)
        try:
            about = postgres.about()
            for number in range(args.rounds):
                turn = number % len(args.contestants)
                for name in args.contestants[turn:] + args.contestants[:turn]:
                    made = contestants.run(name, settings[name], args.jobs, args.peers, args.bench, postgres, folder)
                    print(f"round {number + 1}: {name} enqueued in {made.enqueue:.2f} s, drained in {made.drain:.2f} s",
                          file=sys.stderr, flush=True)
                    runs[name].append(made)
        finally:
            postgres.stop()
    return runs, about


def table(jobs: int, runs: dict[str, list[Run]]) -> list[dict]:
    """One row a contestant: medians, and our ratio to it."""
    rows = []
    for name, made in runs.items():
        rate = {part: jobs / statistics.median(getattr(run, part) for run in made)
                for part in ("enqueue", "drain", "total")}
        rows.append({"name": name, "version": made[0].version} | {f"{part}_per_s": rate[part] for part in rate})
    ours = next((row for row in rows if row["name"] == OURS), None)
    for row in rows:
        for part in ("enqueue", "drain", "total"):
            row[f"{part}_ratio"] = ours and ours[f"{part}_per_s"] / row[f"{part}_per_s"]
    return rows


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    names = list(contestants.settings(cores, 0))
    args = arguments(names)
    settings = contestants.settings(cores, args.workers)
    if OURS in args.contestants and not args.bench.exists():
        raise SystemExit(f"no {args.bench}; build it: cargo build --release -p sanafarm-tests --bin farm-bench")
    args.peers = args.peers.resolve()
    contestants.install(args.peers)
    runs, about = measure(args, settings)
    rows = table(args.jobs, runs)
    used = {name: settings[name] for name in runs}
    if args.json:
        seconds = {name: [{"enqueue": run.enqueue, "drain": run.drain} for run in made] for name, made in runs.items()}
        print(json.dumps({"jobs": args.jobs, "cores": cores, "postgres": about, "settings": used, "rows": rows,
                          "runs": seconds}))
        return
    print(f"{args.jobs} jobs, {cores} cores, medians of {args.rounds} rounds by turns")
    print("postgres: " + ", ".join(f"{name} {value}" for name, value in about.items()))
    for row in rows:
        print(f"{row['name']}: {row['version']}; " + ", ".join(f"{key} {value}" for key, value in used[row["name"]].items()))
    print()
    print("| contestant | enqueued/s | drained/s | both/s | ours / theirs: enqueue | drain | both |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        rates = " | ".join(f"{row[f'{part}_per_s']:,.0f}" for part in ("enqueue", "drain", "total"))
        ratios = " | ".join("" if row[f"{part}_ratio"] is None else f"{row[f'{part}_ratio']:.2f}"
                            for part in ("enqueue", "drain", "total"))
        print(f"| {row['name']} | {rates} | {ratios} |")


if __name__ == "__main__":
    main()
