"""Reads an output as a training run would: prints reader, index, sha256 and prompt of each sample, a JSON object a line.

    read_dataset.py files|webdataset FOLDER
"""

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

cache = tempfile.TemporaryDirectory()
os.environ |= {"HF_HOME": cache.name, "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}

import datasets  # noqa: E402
import webdataset  # noqa: E402

PICTURES = ("png", "jpg", "webp")


def tell(reader: str, index: int, picture: bytes, prompt: str) -> None:
    sample = {"reader": reader, "index": index, "sha256": hashlib.sha256(picture).hexdigest(), "prompt": prompt}
    print(json.dumps(sample))


def content(image: dict) -> bytes:
    """Of an image that is not decoded."""
    return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()


def main() -> None:
    layout, folder = sys.argv[1], Path(sys.argv[2])
    samples = datasets.load_dataset(str(folder), split="train")
    if layout == "files":
        # Decoded once: the library must take it for a picture.
        assert samples[0]["image"].size[0] > 0
        for sample in samples.cast_column("image", datasets.Image(decode=False)):
            tell("datasets", sample["index"], content(sample["image"]), sample["text"])
        return
    kind = next(kind for kind in PICTURES if kind in samples.column_names)
    assert samples[0][kind].size[0] > 0
    for sample in samples.cast_column(kind, datasets.Image(decode=False)):
        tell("datasets", sample["json"]["index"], content(sample[kind]), sample["txt"])
    index = json.loads((folder / "index.json").read_text())
    tars = [str(folder / tar["url"]) for tar in index["shardlist"]]
    for sample in webdataset.WebDataset(tars, shardshuffle=False):
        about = json.loads(sample["json"])
        tell("webdataset", about["index"], sample[kind], sample["txt"].decode())


main()
