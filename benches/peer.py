#!/usr/bin/env python3
"""The reference libraries at the work that `sana-bench` does, with the same options and output.

    python benches/peer.py decode --part /tmp/full/vae --size 1024x1024 --threads 2 --json

f32 on the CPU, `torch.inference_mode`; `--device cuda --dtype bf16` for a GPU, timed until it has done all its work. Of a decoder the faster layout is timed, found by a run of at most 512 px with
its tensors as they are and one with channels last. The text encoder uses the library's own choice of attention ("eager":
no other knows the soft cap) and keeps no cache. `--dtype f64` computes in double precision; parts that the library itself
pins to f32 (sums of the linear attention, Gemma's norms and softmax) stay so.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

PARTS = ("text", "dit", "decode", "picture")
PROMPT = "a red circle on a white background"
GUIDANCE = 4.5
TIMESTEP = 963.0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path, help="folder of a model")
    source.add_argument("--part", dest="alone", type=Path, help="folder of one part")
    parser.add_argument("--size", default="1024x1024")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--pair", action="store_true")
    parser.add_argument("--decode", choices=("exact", "blend", "whole"), default="exact")
    parser.add_argument("--tile", type=int)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--turns", action="store_true", help="time a run for each line of standard input")
    parser.add_argument("--input", type=Path)
    parser.add_argument("--output", type=Path, help="write the result and time nothing (--part)")
    parser.add_argument("--dtype", choices=("f32", "f64", "bf16"), default="f32")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (--part)")
    parser.add_argument("--variant", help="file name variant, such as bf16 (computed in f32)")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def memory(key: str) -> int:
    """A figure of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return 0


def sides(size: str) -> tuple[int, int]:
    width, height = size.split("x")
    return int(width), int(height)


def inputs_of(args: argparse.Namespace, config) -> dict:
    """From the file, or made up: timing does not depend on the values."""
    import torch

    if args.input:
        from safetensors.torch import load_file

        return load_file(args.input)
    width, height = (side // 32 for side in sides(args.size))
    generator = torch.Generator().manual_seed(1)
    randn = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    if args.part == "text":
        return {"ids": torch.randint(4, config.vocab_size, (args.tokens,), generator=generator)}
    if args.part == "decode":
        return {"latent": randn(1, config.latent_channels, height, width)}
    count = 2 if args.pair else 1
    return {
        "latent": randn(1, config.in_channels, height, width).repeat(count, 1, 1, 1),
        "text": randn(count, args.tokens, config.caption_channels),
        "mask": torch.ones(count, args.tokens, dtype=torch.int64),
        "timestep": torch.full((count,), TIMESTEP),
    }


def alone(args: argparse.Namespace):
    """One part: the work as a function that returns its result, the name of that, and all parameters."""
    import torch

    dtype = {"f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    if args.part == "text":
        from transformers import Gemma2Model

        # Weights stay as they are stored until a layer runs in f64: all of them would not fit in memory.
        stored = torch.bfloat16 if args.dtype == "f64" else dtype
        model = Gemma2Model.from_pretrained(args.alone, dtype=stored).eval().to(args.device)
        ids = inputs_of(args, model.config)["ids"].long()[None].to(args.device)
        if args.dtype == "f64":
            for module in (*model.layers, model.norm):
                module.register_forward_pre_hook(lambda module, _: module.double() and None)
                module.register_forward_hook(lambda module, *_: module.to(stored) and None)

        def text():
            embeds = model.embed_tokens.weight[ids].to(dtype) * model.config.hidden_size**0.5
            given = {"inputs_embeds": embeds} if args.dtype == "f64" else {"input_ids": ids}
            return model(**given, use_cache=False).last_hidden_state[0]

        return text, "hidden", model
    if args.part == "dit":
        from diffusers import SanaTransformer2DModel

        model = SanaTransformer2DModel.from_pretrained(args.alone, dtype=dtype).eval().to(args.device)
        given = {name: tensor.to(args.device) for name, tensor in inputs_of(args, model.config).items()}

        def dit():
            return model(
                given["latent"].to(dtype),
                encoder_hidden_states=given["text"].to(dtype),
                encoder_attention_mask=given["mask"],
                timestep=given["timestep"],
                return_dict=False,
            )[0]

        return dit, "velocity", model
    if args.part == "decode":
        from diffusers import AutoencoderDC

        model = AutoencoderDC.from_pretrained(args.alone, dtype=dtype).eval().to(args.device)
        # Only what decodes counts.
        del model.encoder
        latent = inputs_of(args, model.config)["latent"].to(args.device, dtype)
        blend(model, args)
        return faster_layout(model, latent, args), "picture", model
    sys.exit("error: a picture needs --model")


def blend(vae, args: argparse.Namespace) -> None:
    if args.decode == "blend":
        tile = args.tile or 512
        vae.enable_tiling(tile, tile, tile - tile // 8, tile - tile // 8)


def faster_layout(vae, latent, args: argparse.Namespace):
    """Decodes with the layout that is faster here, by one run each of at most 512 px behind a small one."""
    import torch

    layouts = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
    seconds = {}
    for name, layout in layouts.items() if args.output is None else ():
        vae.to(memory_format=layout)
        for given in (latent[:, :, :4, :4], latent[:, :, :16, :16]):
            start = time.perf_counter()
            vae.decode(given.to(memory_format=layout), return_dict=False)
            if args.device != "cpu":
                torch.cuda.synchronize()
            seconds[name] = time.perf_counter() - start
    best = min(seconds, key=seconds.get) if seconds else "contiguous"
    print(f"decoder layout: {best} of {seconds}", file=sys.stderr)
    vae.to(memory_format=layouts[best])
    given = latent.to(memory_format=layouts[best])
    return lambda: vae.decode(given, return_dict=False)[0]


def whole(args: argparse.Namespace):
    """A part of a whole model, or all of it."""
    import inspect

    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(args.model, dtype=torch.float32, variant=args.variant)
    pipe.set_progress_bar_config(disable=True)
    width, height = sides(args.size)
    blend(pipe.vae, args)
    instruction = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default

    def text() -> dict:
        values = pipe.encode_prompt(
            PROMPT, negative_prompt="", device=torch.device("cpu"), complex_human_instruction=instruction
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

    if args.part == "text":
        return text
    if args.part == "dit":
        prompt = text()
        return lambda: render(prompt, "latent")
    if args.part == "decode":
        latent = torch.randn(1, pipe.vae.config.latent_channels, height // 32, width // 32)
        return faster_layout(pipe.vae, latent, args)
    return lambda: render({"prompt": PROMPT}, "pil")


def main() -> None:
    args = arguments()
    # Before torch is loaded, which reads it once.
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    start = time.perf_counter()
    import torch

    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    with torch.inference_mode():
        weights = 0
        if args.alone:
            run, name, model = alone(args)
            for tensor in model.parameters():
                # Into memory: until they are used, weights are pages of a mapped file.
                tensor.data = tensor.data.clone(memory_format=torch.preserve_format)
            weights = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
        else:
            run = whole(args)
        load = time.perf_counter() - start
        if args.output:
            from safetensors.torch import save_file

            save_file({name: run().contiguous()}, args.output)
            return

        def once() -> dict:
            start, cpu = time.perf_counter(), time.process_time()
            run()
            if args.device != "cpu":
                torch.cuda.synchronize()
            return {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}

        before = memory("VmRSS")
        # From here on the peak counts anew.
        Path("/proc/self/clear_refs").write_text("5")
        first = once()
        runs = []
        if args.turns:
            print(json.dumps({"first_seconds": first["seconds"], "load_seconds": load}), flush=True)
            for _ in sys.stdin:
                runs.append(once())
                print(json.dumps(runs[-1]), flush=True)
        else:
            runs = [once() for _ in range(args.repeat)]
    peak = memory("VmHWM")
    result = {
        "part": args.part,
        "seconds": statistics.median(run["seconds"] for run in runs or [first]),
        "cpu_seconds": statistics.median(run["cpu_seconds"] for run in runs or [first]),
        "runs": [run["seconds"] for run in runs],
        "first_seconds": first["seconds"],
        "load_seconds": load,
        "threads": torch.get_num_threads(),
        "peak_rss_bytes": peak,
        "rss_before_bytes": before,
        "weights_bytes": weights,
        # An empty Python with torch holds hundreds of MB, so what the run adds is counted.
        "above_weights_bytes": peak - before,
    }
    if args.json:
        print(json.dumps(result))
    else:
        print(f"{args.part}: median {result['seconds']:.3f} s, peak {peak / 1e6:.0f} MB, "
              f"{(peak - before) / 1e6:.0f} MB above the loaded model")


if __name__ == "__main__":
    main()
