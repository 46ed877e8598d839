"""Measures Celery on Redis.

Run with the number of jobs and the settings as JSON; CELERY_PEER_BROKER is the URL of database 0 of a Redis server that nobody
else uses. It puts all jobs in, lets the worker begin, waits until each job has its result, and prints one JSON object. The
settings follow the pages "Optimizing" and "Canvas: Chunks" of Celery's documentation.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import celery
import redis
from celery_app import app, render


def prompt(index: int) -> str:
    """About as long as the prompts of farm-bench."""
    return f"a wide photograph of harbour crane number {index:08} in morning light, sharp, highly detailed"


def enqueue(jobs: int, chunk: int) -> int:
    """Puts all jobs in; the number of results that they are to leave."""
    arguments = ((index, prompt(index)) for index in range(jobs))
    if chunk > 1:
        render.chunks(arguments, chunk).group().apply_async(queue="work")
        return -(-jobs // chunk)
    with app.producer_pool.acquire(block=True) as producer:
        for job in arguments:
            render.apply_async(job, queue="work", producer=producer)
    return jobs


def wait_for_worker(worker: subprocess.Popen) -> None:
    """Waits until the worker answers."""
    while not app.control.ping(timeout=0.5):
        if worker.poll() is not None:
            raise SystemExit(f"the celery worker ended with {worker.returncode}")


def measure(jobs: int, settings: dict) -> dict:
    results = redis.Redis.from_url(app.conf.result_backend)
    # It listens to no queue with jobs until it is told.
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "--quiet", "-A", "celery_app", "worker", "-Q", "idle", "--loglevel", "WARNING",
         "--pool", settings["pool"], "--concurrency", str(settings["concurrency"]),
         "--without-gossip", "--without-mingle", "--without-heartbeat"],
        cwd=os.path.dirname(os.path.abspath(__file__)), stdout=subprocess.DEVNULL,
        # Of its warnings there is one when root runs it.
        env={**os.environ, "CELERY_PEER_PREFETCH": str(settings["prefetch_multiplier"]), "PYTHONWARNINGS": "ignore"},
    )
    try:
        wait_for_worker(worker)
        began = time.perf_counter()
        wanted = enqueue(jobs, settings["chunk"])
        enqueue_seconds = time.perf_counter() - began
        began = time.perf_counter()
        app.control.add_consumer("work")
        while results.dbsize() < wanted:
            if worker.poll() is not None:
                raise SystemExit(f"the celery worker ended with {worker.returncode}")
            time.sleep(0.01)
        drain_seconds = time.perf_counter() - began
    finally:
        worker.terminate()
        worker.wait()
    stored = [json.loads(results.get(key)) for key in results.scan_iter(count=1000)]
    rendered = sum(len(result["result"]) if settings["chunk"] > 1 else 1 for result in stored)
    if rendered != jobs or any(result["status"] != "SUCCESS" for result in stored):
        raise SystemExit(f"{rendered} results for {jobs} jobs")
    version = f"{celery.__version__}, python {sys.version.split()[0]}, redis-server {results.info()['redis_version']}"
    return {"version": version, "enqueue_seconds": enqueue_seconds, "drain_seconds": drain_seconds}


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), json.loads(sys.argv[2]))))
