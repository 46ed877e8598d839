#!/usr/bin/env python3
"""Time sana-bench and the reference libraries by turns: same weights, sizes, threads, in f32 on the CPU.

    pip install torch diffusers transformers accelerate
    cargo build --release -p sana --bin sana-bench
    python benches/compare_diffusers.py                                # what needs only the model in this repository
    python benches/full_size.py vae --out /tmp/full/vae                # likewise dit and gemma
    python benches/compare_diffusers.py --parts /tmp/full --threads 1 2 --markdown

Rows of full-size parts: `decode-512` and `decode-1024` (DC-AE f32c32), `dit` (Sana 0.6B, one call: 32x32 latent, a guided
pair, 300 text rows, texts projected in the call on both sides), `gemma` (Gemma-2-2b, 512 tokens). Rows of `--model`: `text`
(prompt and negative prompt), `steps` (all steps with guidance), `decode`, `picture` (prompt to 8-bit RGB) and `cold` (a
process from its start to its end with one picture: programs and libraries are in the page cache, nothing else is kept).

Both sides of a row are loaded and run once; then each does one run by turns, and the side that starts changes, so that a
slow minute of the machine hits both. Of `gemma` both do not fit into memory at once: each round starts one process a side,
which runs once and then is timed once. The table shows medians over `--rounds`; the ratio is ours / theirs, below 1 is
faster. CPU seconds are those of all threads; on a machine that does other work they are the steadier figure. "Above" is the
peak of resident memory: ours above the weights, theirs above the loaded model.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEER = Path(__file__).resolve().parent / "peer.py"
# Row: folder of its part, and arguments of both sides.
FULL = {
    "decode-512": ("vae", ["decode", "--size", "512x512"]),
    "decode-1024": ("vae", ["decode", "--size", "1024x1024"]),
    "dit": ("dit", ["dit", "--size", "1024x1024", "--tokens", "300", "--pair"]),
    "gemma": ("gemma", ["text", "--tokens", "512"]),
}
MODEL = {"text": "text", "steps": "dit", "decode": "decode", "picture": "picture", "cold": "picture"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=Path, help="folder with the full-size parts vae, dit and gemma")
    parser.add_argument("--rows", nargs="+", choices=(*FULL, *MODEL), help="default: all, full-size ones with --parts")
    parser.add_argument("--model", type=Path, default=ROOT / "models/sana-tiny", help="folder in the diffusers layout")
    parser.add_argument("--size", default="512x512", help="WxH of the model's rows, multiples of 32")
    parser.add_argument("--steps", type=int, default=20, help="of the model's rows")
    parser.add_argument("--decode", choices=("exact", "blend", "whole"), default="exact",
                        help="diffusers decodes `exact` whole: the same picture")
    parser.add_argument("--tile", type=int, help="tile or band in pixels")
    parser.add_argument("--threads", type=int, nargs="+", default=[os.cpu_count()])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bench", type=Path, default=ROOT / "target/release/sana-bench")
    parser.add_argument("--json", action="store_true", help="print one JSON object a row")
    parser.add_argument("--markdown", action="store_true", help="print a table for the documentation")
    return parser.parse_args()


def commands(args: argparse.Namespace, row: str, threads: int) -> dict[str, list[str]]:
    """The two sides with the same settings."""
    if row in FULL:
        folder, shared = FULL[row]
        shared = [*shared, "--part", str(args.parts / folder)]
    else:
        shared = [MODEL[row], "--model", str(args.model), "--size", args.size, "--steps", str(args.steps)]
    shared += ["--decode", args.decode, "--threads", str(threads), "--json"]
    if args.tile:
        shared += ["--tile", str(args.tile)]
    return {"ours": [str(args.bench), *shared], "theirs": [sys.executable, str(PEER), *shared]}


def environment(threads: int) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}


def finished(command: list[str], threads: int) -> dict:
    """Runs a process that prints one JSON object in its last line; adds its seconds from start to end."""
    start, cpu = time.perf_counter(), os.times()
    done = subprocess.run(command, capture_output=True, text=True, env=environment(threads), check=False)
    seconds, after = time.perf_counter() - start, os.times()
    if done.returncode != 0:
        sys.exit(f"{done.stderr}error: {' '.join(command)} ended with {done.returncode}")
    children = after.children_user + after.children_system - cpu.children_user - cpu.children_system
    return json.loads(done.stdout.strip().splitlines()[-1]) | {"process": {"seconds": seconds, "cpu_seconds": children}}


class Runner:
    """A process that does one run for each line it is given."""

    def __init__(self, command: list[str], threads: int):
        self.command = command
        self.process = subprocess.Popen(
            [*command, "--turns"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(threads)
        )
        self.read()

    def read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"error: {' '.join(self.command)} ended with {self.process.wait()}")
        return json.loads(line)

    def run(self) -> dict:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.read()

    def end(self) -> dict:
        self.process.stdin.close()
        return self.read()


def measure(args: argparse.Namespace, row: str, threads: int) -> dict:
    """All rounds of a row."""
    sides = commands(args, row, threads)
    runs: dict[str, list[dict]] = {side: [] for side in sides}
    ends: dict[str, dict] = {}
    runners = {}
    if row == "cold":
        # Once, so that all files are in the page cache.
        for command in sides.values():
            finished([*command, "--repeat", "0"], threads)
    elif row != "gemma":
        runners = {side: Runner(command, threads) for side, command in sides.items()}
    for turn in range(args.rounds):
        for side in sorted(sides, reverse=turn % 2 == 1):
            if row == "cold":
                ends[side] = finished([*sides[side], "--repeat", "0"], threads)
                runs[side].append(ends[side]["process"])
            elif row == "gemma":
                ends[side] = finished([*sides[side], "--repeat", "1"], threads)
                runs[side].append({key: ends[side][key] for key in ("seconds", "cpu_seconds")})
            else:
                runs[side].append(runners[side].run())
    for side, runner in runners.items():
        ends[side] = runner.end()

    result: dict = {"row": row, "threads": threads, "rounds": args.rounds}
    if row not in FULL:
        result |= {"size": args.size, "steps": args.steps}
    for side in sides:
        result[side] = {key: statistics.median(run[key] for run in runs[side]) for key in ("seconds", "cpu_seconds")}
        result[side] |= {key: ends[side][key] for key in ("peak_rss_bytes", "weights_bytes", "above_weights_bytes")}
        result[side]["seconds_of_rounds"] = [run["seconds"] for run in runs[side]]
    for key in ("seconds", "cpu_seconds"):
        result[f"{key}_ratio"] = result["ours"][key] / result["theirs"][key]
    return result


def main() -> int:
    args = arguments()
    if not args.bench.is_file():
        sys.exit(f"error: {args.bench} is missing\nhint: cargo build --release -p sana --bin sana-bench")
    rows = args.rows or [*(FULL if args.parts else ()), "text", "steps", "decode", "picture", "cold"]
    if args.parts is None and any(row in FULL for row in rows):
        sys.exit("error: rows of full-size parts need --parts; benches/full_size.py makes them")
    if args.markdown:
        print("| row | threads | ours, s | theirs, s | ratio | CPU s, ours | theirs | ratio | above, MB, ours | theirs |")
        print("|---|---|---|---|---|---|---|---|---|---|")
    elif not args.json:
        print(f"{'':<16} {'seconds':>26}   {'CPU seconds':>26}   {'above, MB':>14}")
        print(f"{'row':<12} {'thr':>3}" + 2 * f" {'ours':>9} {'theirs':>8} {'ratio':>7}  " + f" {'ours':>6} {'theirs':>7}")
    for threads in args.threads:
        for row in rows:
            result = measure(args, row, threads)
            if args.json:
                print(json.dumps(result), flush=True)
                continue
            ours, theirs = result["ours"], result["theirs"]
            figures = [
                (f"{ours[key]:.3f}", f"{theirs[key]:.3f}", f"{result[f'{key}_ratio']:.2f}")
                for key in ("seconds", "cpu_seconds")
            ]
            above = [f"{side['above_weights_bytes'] / 1e6:.0f}" for side in (ours, theirs)]
            if args.markdown:
                print("| " + " | ".join([row, str(threads), *figures[0], *figures[1], *above]) + " |", flush=True)
                continue
            texts = "".join(f" {a:>9} {b:>8} {c:>7}  " for a, b, c in figures)
            print(f"{row:<12} {threads:>3}{texts} {above[0]:>6} {above[1]:>7}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
