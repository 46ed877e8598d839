#!/usr/bin/env python3
"""Time sana-bench and diffusers side by side: same weights, size, steps, threads, in f32 on the CPU.

    pip install torch diffusers transformers accelerate
    cargo build --release -p sana --bin sana-bench
    python benches/compare_diffusers.py --model models/sana-tiny --size 1024x1024

Each measurement is a process of its own, ours and theirs by turns, so that a slow minute of the machine hits both.
A process runs once to warm up and then `--repeat` times; the table shows the median over `--rounds` processes. The
ratio is ours / diffusers: below 1 is faster (or smaller).

Parts: `text` encodes the prompt with its instruction and the empty negative prompt, `dit` runs the steps with
guidance, `decode` turns one latent into a picture, `picture` is all of it up to 8-bit RGB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

PARTS = ("text", "dit", "decode", "picture")
PROMPT = "a red circle on a white background"
GUIDANCE = 4.5
ROOT = Path(__file__).resolve().parent.parent


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models/sana-tiny", help="folder in the diffusers layout")
    parser.add_argument("--size", default="1024x1024", help="WxH, multiples of 32")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--decode", choices=("exact", "blend", "whole"), default="exact",
                        help="diffusers decodes `exact` whole: the same picture")
    parser.add_argument("--tile", type=int, help="tile or band in pixels")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeat", type=int, default=3, help="timed runs of one process")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each side")
    parser.add_argument("--variant", help="file name variant for diffusers, such as bf16 (computed in f32)")
    parser.add_argument("--bench", type=Path, default=ROOT / "target/release/sana-bench")
    parser.add_argument("--json", action="store_true", help="print one JSON object per part")
    parser.add_argument("--diffusers-part", choices=PARTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def rss_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def diffusers_part(args: argparse.Namespace) -> dict:
    """Run one part in this process."""
    import torch
    from diffusers import SanaPipeline

    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    pipe = SanaPipeline.from_pretrained(args.model, torch_dtype=torch.float32, variant=args.variant)
    pipe.set_progress_bar_config(disable=True)
    width, height = (int(side) for side in args.size.split("x"))
    if args.decode == "blend":
        tile = args.tile or 512
        stride = tile - tile // 8
        pipe.vae.enable_tiling(tile, tile, stride, stride)

    def text() -> dict:
        values = pipe.encode_prompt(
            PROMPT, negative_prompt="", device=torch.device("cpu"), complex_human_instruction=instruction()
        )
        names = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")
        return dict(zip(names, values))

    def render(prompt: dict, output: str):
        return pipe(
            **prompt,
            negative_prompt=None if "prompt_embeds" in prompt else "",
            width=width,
            height=height,
            num_inference_steps=args.steps,
            guidance_scale=GUIDANCE,
            use_resolution_binning=False,
            generator=torch.Generator().manual_seed(0),
            output_type=output,
        )

    part = args.diffusers_part
    if part == "text":
        run = text
    elif part == "dit":
        prompt = text()
        run = lambda: render(prompt, "latent")  # noqa: E731
    elif part == "decode":
        latent = torch.randn(1, pipe.vae.config.latent_channels, height // 32, width // 32)
        run = lambda: pipe.vae.decode(latent / pipe.vae.config.scaling_factor)  # noqa: E731
    else:
        run = lambda: render({"prompt": PROMPT}, "pil")  # noqa: E731

    before = rss_bytes()
    run()
    seconds = []
    for _ in range(args.repeat):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return {
        "part": part,
        "seconds": statistics.median(seconds),
        "runs": args.repeat,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "rss_before_bytes": before,
    }


def instruction() -> list[str]:
    """The default complex human instruction of the installed library."""
    import inspect

    from diffusers import SanaPipeline

    return inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default


def measured(command: list[str], threads: int) -> dict:
    """Run a process that prints one JSON object in its last line."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        sys.exit(f"{done.stderr}error: {' '.join(command)} ended with {done.returncode}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def commands(args: argparse.Namespace, part: str) -> dict[str, list[str]]:
    """The two sides with the same settings."""
    shared = ["--model", str(args.model), "--size", args.size, "--steps", str(args.steps), "--decode", args.decode]
    shared += ["--threads", str(args.threads), "--repeat", str(args.repeat)]
    if args.tile:
        shared += ["--tile", str(args.tile)]
    theirs = [sys.executable, __file__, *shared, "--diffusers-part", part]
    if args.variant:
        theirs += ["--variant", args.variant]
    return {"ours": [str(args.bench), part, *shared, "--json"], "diffusers": theirs}


def compare(args: argparse.Namespace, part: str) -> dict:
    """Medians of both sides, and their ratios."""
    sides = commands(args, part)
    runs: dict[str, list[dict]] = {side: [] for side in sides}
    for turn in range(args.rounds):
        # The side that starts changes from round to round.
        for side in sorted(sides, reverse=turn % 2 == 0):
            runs[side].append(measured(sides[side], args.threads))

    def median(side: str, key: str) -> float:
        return statistics.median(run[key] for run in runs[side])

    result: dict = {"part": part, "size": args.size, "steps": args.steps, "threads": args.threads}
    for side in sides:
        result[side] = {key: median(side, key) for key in ("seconds", "peak_rss_bytes", "rss_before_bytes")}
        # What the part itself needs: an empty Python with torch already holds hundreds of MiB.
        result[side]["grown_bytes"] = statistics.median(
            run["peak_rss_bytes"] - run["rss_before_bytes"] for run in runs[side]
        )
        result[side]["seconds_of_rounds"] = [run["seconds"] for run in runs[side]]
    for key in ("seconds", "peak_rss_bytes"):
        result[f"{key}_ratio"] = result["ours"][key] / result["diffusers"][key]
    return result


def main() -> int:
    args = arguments()
    if args.diffusers_part:
        print(json.dumps(diffusers_part(args)))
        return 0
    if not args.bench.is_file():
        sys.exit(f"error: {args.bench} is missing\nhint: cargo build --release -p sana --bin sana-bench")
    if not args.json:
        print(f"{'':<8} {'seconds':>27}   {'peak MiB':>23}   {'grown MiB':>15}")
        print(f"{'part':<8} {'ours':>9} {'theirs':>9} {'ratio':>7}   {'ours':>7} {'theirs':>7} {'ratio':>7}   "
              f"{'ours':>7} {'theirs':>7}")
    for part in args.parts:
        result = compare(args, part)
        if args.json:
            print(json.dumps(result), flush=True)
            continue
        ours, theirs = result["ours"], result["diffusers"]
        mib = {key: [side[key] / 2**20 for side in (ours, theirs)] for key in ("peak_rss_bytes", "grown_bytes")}
        print(
            f"{part:<8} {ours['seconds']:>9.3f} {theirs['seconds']:>9.3f} {result['seconds_ratio']:>7.2f}   "
            f"{mib['peak_rss_bytes'][0]:>7.0f} {mib['peak_rss_bytes'][1]:>7.0f} "
            f"{result['peak_rss_bytes_ratio']:>7.2f}   "
            f"{mib['grown_bytes'][0]:>7.0f} {mib['grown_bytes'][1]:>7.0f}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
