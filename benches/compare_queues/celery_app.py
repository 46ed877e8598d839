"""The Celery application: what its workers import. Broker and result backend are databases of one Redis server."""

from __future__ import annotations

import hashlib
import json
import os

import celery

NEGATIVE = ("blurry, low resolution, jpeg artefacts, text, signature, watermark, frame, cropped, oversaturated, "
            "deformed hands")
BROKER = os.environ["CELERY_PEER_BROKER"]
app = celery.Celery("celery_app", broker=BROKER, backend=BROKER.removesuffix("/0") + "/1")
app.conf.update(
    task_default_queue="work",
    worker_disable_rate_limits=True,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=int(os.environ.get("CELERY_PEER_PREFETCH", "4")),
)


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
