#!/usr/bin/env python3
"""Compare full-size parts with the reference libraries, on the same random weights and inputs.

    python benches/full_size.py vae --out /tmp/full/vae        # likewise dit and gemma
    cargo build --release -p sana --bin sana-bench
    python benches/check_full_size.py --parts /tmp/full        # about half an hour on two cores

`decode` is DC-AE f32c32 at 1024 px, `dit` one call of Sana 0.6B at 1024 px (32x32 latent, two sequences of 300 and 12 text
rows), `text` Gemma-2-2b on 512 tokens, about what the complex human instruction and a prompt have. No tokenizer of Gemma
can be had offline, so the ids are random ones of its vocabulary; prompts and tokens are checked by `sana-check`.

Three results are made: ours and the library's in f32, and the library's in f64. The library's own distance from f64 is
the noise of f32 arithmetic in this network. Ours may differ from the library's f32 result by at most `--factor` times that
noise, the rule of the fixtures (`sana-check`): orders of summation differ, and the largest of millions of roundings is not
the same value twice. Any mistake in the arithmetic is larger by orders of magnitude. Of a decoder the noise is measured at 512 px,
since PyTorch needs more than 20 GB for it at 1024. Gemma needs 11 GB on either side. Exits with 1 when a part is over.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
FOLDERS = {"decode": "vae", "dit": "dit", "text": "gemma"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=Path, required=True, help="folder with vae, dit and gemma")
    parser.add_argument("--only", nargs="+", choices=tuple(FOLDERS), default=list(FOLDERS))
    parser.add_argument("--size", default="1024x1024", help="of decode and dit")
    parser.add_argument("--tokens", type=int, default=512, help="of text")
    parser.add_argument("--factor", type=float, default=20.0, help="allowed, in units of the library's own noise")
    parser.add_argument("--bench", type=Path, default=HERE.parent / "target/release/sana-bench")
    parser.add_argument("--keep", type=Path, help="folder to keep inputs and results in, and to take them from")
    return parser.parse_args()


def make_inputs(part: str, folder: Path, size: str, tokens: int) -> dict[str, torch.Tensor]:
    config = json.loads((folder / "config.json").read_text())
    width, height = (int(side) // 32 for side in size.split("x"))
    generator = torch.Generator().manual_seed(7)
    randn = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    if part == "text":
        ids = torch.randint(4, config["vocab_size"], (tokens,), generator=generator)
        ids[0] = 2
        return {"ids": ids}
    if part == "decode":
        return {"latent": randn(1, config["latent_channels"], height, width)}
    mask = torch.zeros(2, 300, dtype=torch.int64)
    mask[0, :] = 1
    mask[1, :12] = 1
    return {
        "latent": randn(1, config["in_channels"], height, width).repeat(2, 1, 1, 1),
        "text": randn(2, 300, config["caption_channels"]),
        "mask": mask,
        "timestep": torch.tensor([963.0, 963.0]),
    }


def result(command: list[str], output: Path) -> torch.Tensor:
    """Runs one side and reads what it wrote, unless it is there from another day."""
    if not output.exists():
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run([*command, "--output", str(output)], env=environment, check=False, capture_output=True)
        if done.returncode != 0:
            sys.exit(f"{done.stderr.decode()}error: {' '.join(command)} ended with {done.returncode}")
    (tensor,) = load_file(output).values()
    return tensor.double()


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


class Case:
    """A part with inputs of one size, and its results by side."""

    def __init__(self, args: argparse.Namespace, part: str, size: str, work: Path):
        folder = args.parts / FOLDERS[part]
        self.name = f"{part}-{args.tokens}" if part == "text" else f"{part}-{size}"
        self.work, self.bench = work, args.bench
        inputs = work / f"{self.name}.input.safetensors"
        if not inputs.exists():
            save_file(make_inputs(part, folder, size, args.tokens), inputs)
        self.shared = [part, "--part", str(folder), "--input", str(inputs)]

    def theirs(self, dtype: str) -> torch.Tensor:
        command = [sys.executable, str(HERE / "peer.py"), *self.shared, "--dtype", dtype]
        return result(command, self.work / f"{self.name}.{dtype}.safetensors")

    def ours(self) -> torch.Tensor:
        output = self.work / f"{self.name}.ours.safetensors"
        output.unlink(missing_ok=True)
        return result([str(self.bench), *self.shared], output)


def check(args: argparse.Namespace, part: str, work: Path) -> bool:
    case = Case(args, part, args.size, work)
    width, height = (int(side) for side in args.size.split("x"))
    # PyTorch convolves f64 by way of all windows of pixels at once: 20 GB at 1024 px.
    small = part == "decode" and width * height > 512 * 512
    noisy = Case(args, part, "512x512", work) if small else case
    exact = noisy.theirs("f64")
    noise = distance(noisy.theirs("f32"), exact)
    ours, theirs = case.ours(), case.theirs("f32")
    if ours.shape != theirs.shape:
        sys.exit(f"error: {part}: our result is {tuple(ours.shape)}, theirs {tuple(theirs.shape)}")

    difference = distance(ours, theirs)
    relative = ((ours - theirs).norm() / theirs.norm()).item()
    good = difference <= args.factor * noise and theirs.std().item() > 0.01
    to_exact = distance(noisy.ours() if small else ours, exact)
    print(
        f"{'ok' if good else 'OVER':<5}{case.name:<18} ours to theirs {difference:.2e} (allowed {args.factor * noise:.2e}), "
        f"relative {relative:.2e}; to f64{' at 512 px' if small else ''}: ours {to_exact:.2e}, theirs {noise:.2e}; "
        f"values up to {theirs.abs().max().item():.2f}, std {theirs.std().item():.3f}",
        flush=True,
    )
    return good


def main() -> int:
    args = arguments()
    if not args.bench.is_file():
        sys.exit(f"error: {args.bench} is missing\nhint: cargo build --release -p sana --bin sana-bench")
    with tempfile.TemporaryDirectory() as made:
        work = args.keep or Path(made)
        work.mkdir(parents=True, exist_ok=True)
        return 0 if all([check(args, part, work) for part in args.only]) else 1


if __name__ == "__main__":
    sys.exit(main())
