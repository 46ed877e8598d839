#!/usr/bin/env python3
"""Measure memory and time of the full-size decoder over the size of the picture, and draw both.

    python benches/full_size.py vae --out /tmp/full/vae
    cargo build --release -p sana --bin sana-bench
    python benches/memory_curve.py --part /tmp/full/vae                       # about two hours on two cores
    python benches/memory_curve.py --part /tmp/full/vae --sizes 512 1024      # some sizes; the others stay as they were
    python benches/memory_curve.py                                            # draw again

One run of a new process a size. Ours is the peak of resident memory from the end of loading to the last row, less the
weights: program, code and buffers of loading count, and rows of 8-bit RGB as they are handed out; a file encoder takes each
row as it comes, so the picture is never held. PyTorch decodes untiled, and what it adds to the loaded model is counted; it is
run up to `--peer-up-to`. Time is CPU time of all threads, which other work on the machine moves least. Figures are kept in docs/performance/memory.json, and memory.svg and memory.md are made of them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "docs/performance"
SIZES = [512, 1024, 1536, 2048, 3072, 4096]
# MB above the weights, from the issue that asks for them.
FLOOR = {1024: 250, 2048: 600, 4096: 1600}
GOAL = {1024: 150, 2048: 400, 4096: 1200}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", type=Path, help="folder of the decoder; without it nothing is measured")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="sides of the picture in pixels")
    parser.add_argument("--peer-up-to", type=int, default=1024, help="largest side for PyTorch; 0 for none")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--bench", type=Path, default=HERE.parent / "target/release/sana-bench")
    return parser.parse_args()


def measured(command: list[str], args: argparse.Namespace, size: int) -> dict:
    command = [*command, "decode", "--part", str(args.part), "--size", f"{size}x{size}", "--repeat", "0", "--json"]
    command += ["--threads", str(args.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{done.stderr}error: {' '.join(command)} ended with {done.returncode}")
    result = json.loads(done.stdout.strip().splitlines()[-1])
    ours = {}
    if result.get("planned_bytes") is not None:
        ours["planned_mb"] = round(result["planned_bytes"] / 1e6, 1)
        # Weights packed for the kernels are larger than those of the file, in f32.
        ours["packed_mb"] = round((result["weights_bytes"] - result["parameters_bytes"]) / 1e6, 1)
    return ours | {
        "above_mb": round(result["above_weights_bytes"] / 1e6, 1),
        "seconds": round(result["seconds"], 2),
        "cpu_seconds": round(result["cpu_seconds"], 2),
    }


def table(figures: dict[str, dict]) -> str:
    """Markdown."""
    lines = [
        "| size | ours, MB above the weights | planned at work | floor | goal | ours, s | CPU s | CPU s a megapixel |"
        " PyTorch, MB above the model | s | CPU s | threads | date |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for size, row in sorted((int(size), row) for size, row in figures.items()):
        ours, theirs = row["ours"], row.get("torch", {})
        cells = [
            size, f"{ours['above_mb']:.0f}", f"{ours['planned_mb']:.0f}", FLOOR.get(size, ""), GOAL.get(size, ""),
            f"{ours['seconds']:.1f}", f"{ours['cpu_seconds']:.1f}", f"{ours['cpu_seconds'] / (size * size / 1e6):.1f}",
            *(f"{theirs[key]:.{digits}f}" if theirs else "" for key, digits in
              (("above_mb", 0), ("seconds", 1), ("cpu_seconds", 1))),
            row["threads"], row["date"],
        ]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    packed = max(row["ours"]["packed_mb"] for row in figures.values())
    lines += ["", f"As packed for the kernels the decoder's weights take {packed:.0f} MB more than in a file of f32."]
    return "\n".join(lines) + "\n"


def draw(figures: dict[str, dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "sana", "font.size": 10}
    from matplotlib import pyplot

    rows = sorted((int(size), row) for size, row in figures.items())
    figure, (memory, speed) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for side, label, style in (("ours", "sana, exact bands", "o-"), ("torch", "PyTorch, untiled", "s--")):
        there = [(size, row[side]) for size, row in rows if side in row]
        if not there:
            continue
        sizes = [size for size, _ in there]
        memory.plot(sizes, [run["above_mb"] for _, run in there], style, label=label)
        speed.plot(sizes, [run["cpu_seconds"] / (size * size / 1e6) for size, run in there], style, label=label)
    memory.plot(list(GOAL), list(GOAL.values()), "k_", markersize=14, label="goal")
    memory.set(title="Memory of a decode above the weights", ylabel="MB", xscale="log", yscale="log")
    speed.set(title="CPU time per megapixel", ylabel="s", xscale="log")
    speed.set_ylim(0, 1.1 * speed.get_ylim()[1])
    for axes in (memory, speed):
        ticks = [size for size, _ in rows]
        axes.set(xlabel="side of the picture, pixels")
        axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    args = arguments()
    OUT.mkdir(parents=True, exist_ok=True)
    store = OUT / "memory.json"
    figures = json.loads(store.read_text()) if store.exists() else {}
    if args.part:
        if not args.bench.is_file():
            sys.exit(f"error: {args.bench} is missing\nhint: cargo build --release -p sana --bin sana-bench")
        for size in args.sizes:
            row = {"threads": args.threads, "date": date.today().isoformat()}
            row["ours"] = measured([str(args.bench)], args, size)
            if size <= args.peer_up_to:
                row["torch"] = measured([sys.executable, str(HERE / "peer.py")], args, size)
            elif "torch" in figures.get(str(size), {}):
                row["torch"] = figures[str(size)]["torch"]
            figures[str(size)] = row
            print(json.dumps({"size": size} | row), flush=True)
            # After each, since the largest takes long.
            store.write_text(json.dumps(figures, indent=1) + "\n")
    if not figures:
        sys.exit("error: nothing was measured yet; give --part")
    (OUT / "memory.md").write_text(table(figures))
    draw(figures, OUT / "memory.svg")
    print(table(figures), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
