"""Celery on Redis: broker and result backend. Both the application that its workers import and the script that measures.

The measuring script is run with the broker's URL (database 0 of a Redis server that nobody else uses), the number of jobs
and the settings as JSON. It puts all jobs in, lets the worker begin, waits until each job has its result, and prints one
JSON object. The settings follow the pages "Optimizing" and "Canvas: chunks" of Celery's documentation.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time

import celery
import redis

NEGATIVE = ("blurry, low resolution, jpeg artefacts, text, signature, watermark, frame, cropped, oversaturated, "
            "deformed hands")
BROKER = os.environ["CELERY_PEER_BROKER"]
app = celery.Celery("celery_peer", broker=BROKER, backend=BROKER.removesuffix("/0") + "/1")
app.conf.update(
    task_default_queue="work",
    worker_disable_rate_limits=True,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=int(os.environ.get("CELERY_PEER_PREFETCH", "4")),
)


def prompt(index: int) -> str:
    """About as long as the prompts of farm-bench."""
    return f"a wide photograph of harbour crane number {index:08} in morning light, sharp, highly detailed"


@app.task
def render(index: int, prompt: str) -> dict:
    """What a job leaves: as much as a result of Sanafarm's."""
    recipe = json.dumps({
        "program": "synthetic engine", "version": "0.1.0", "model": "synthetic-00000000000000000000000000000000",
        "weights_sha256": "5a17e71c" * 8, "prompt": prompt,
        "negative_prompt": NEGATIVE, "seed": index + 1, "width": 1024, "height": 1024,
        "compute_width": 1024, "compute_height": 1024, "steps": 20, "guidance": 4.5,
        "scheduler": "dpm-solver++", "dtype": "f32", "bin": "auto", "decode": "exact",
    }, separators=(",", ":"))
    sha256 = hashlib.sha256(recipe.encode()).hexdigest()
    return {"job": index, "object": f"{index:08}-{index + 1}.png", "bytes": 1600000, "sha256": sha256,
            "recipe": recipe, "seconds": 1.0}


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
        [sys.executable, "-m", "celery", "-A", "celery_peer", "worker", "-Q", "idle", "--loglevel", "WARNING",
         "--pool", settings["pool"], "--concurrency", str(settings["concurrency"]),
         "--without-gossip", "--without-mingle", "--without-heartbeat"],
        cwd=os.path.dirname(os.path.abspath(__file__)), stdout=sys.stderr,
        env={**os.environ, "CELERY_PEER_PREFETCH": str(settings["prefetch_multiplier"]), "C_FORCE_ROOT": "1",
             "PYTHONDONTWRITEBYTECODE": "1"},
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
    # Under the name by which the worker imports it: tasks are named by their module.
    import celery_peer

    print(json.dumps(celery_peer.measure(int(sys.argv[1]), json.loads(sys.argv[2]))))
