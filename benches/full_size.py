#!/usr/bin/env python3
"""Make parts of a model in their released sizes, with random weights, in the diffusers layout.

    python benches/full_size.py vae --out /tmp/full/vae          # DC-AE f32c32, 1.2 GB
    python benches/full_size.py dit --out /tmp/full/dit          # transformer of Sana 0.6B, 2.4 GB
    python benches/full_size.py gemma --out /tmp/full/gemma      # Gemma-2-2b, 5.2 GB in bf16

The weights follow from the seed, the tensor's name and its shape. They are scaled so that activations stay near 1, as in
a trained model, and every one of them counts: norms, biases and tables are not left at 0 or 1. Tensors are made and
written one at a time, so the memory needed is that of the largest. `--layers N` makes only the first N layers of a
transformer or text encoder, to try things quickly.
"""

from __future__ import annotations

import argparse
import json
import zlib
from pathlib import Path

import torch

# A part's own stage, block or layer types: reference section 1.
VAE = {
    "in_channels": 3,
    "latent_channels": 32,
    "attention_head_dim": 32,
    "encoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
    "decoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
    "encoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
    "decoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
    "encoder_layers_per_block": [2, 2, 2, 3, 3, 3],
    "decoder_layers_per_block": [3, 3, 3, 3, 3, 3],
    "encoder_qkv_multiscales": [[], [], [], [5], [5], [5]],
    "decoder_qkv_multiscales": [[], [], [], [5], [5], [5]],
    "downsample_block_type": "Conv",
    "upsample_block_type": "interpolate",
    "decoder_norm_types": "rms_norm",
    "decoder_act_fns": "silu",
    "scaling_factor": 0.41407,
}
DIT = {
    "in_channels": 32,
    "out_channels": 32,
    "num_attention_heads": 36,
    "attention_head_dim": 32,
    "num_layers": 28,
    "num_cross_attention_heads": 16,
    "cross_attention_head_dim": 72,
    "cross_attention_dim": 1152,
    "caption_channels": 2304,
    "sample_size": 32,
    "patch_size": 1,
    "interpolation_scale": None,
}
# Sana 1.6B, for whoever has the memory.
DIT_1600M = DIT | {
    "num_attention_heads": 70,
    "num_layers": 20,
    "num_cross_attention_heads": 20,
    "cross_attention_head_dim": 112,
    "cross_attention_dim": 2240,
}
GEMMA = {
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
SHARD_BYTES = 4 * 10**9
DTYPES = {"f32": (torch.float32, "F32"), "bf16": (torch.bfloat16, "BF16")}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("vae", "dit", "dit-1600m", "gemma"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the part")
    parser.add_argument("--layers", type=int, help="only so many layers (dit, gemma)")
    parser.add_argument("--dtype", choices=tuple(DTYPES), help="on disk: f32, of gemma bf16")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def skeleton(part: str, layers: int | None) -> tuple[torch.nn.Module, str]:
    """The library's model without memory behind its tensors, and the stem of its weight files."""
    with torch.device("meta"):
        if part == "vae":
            from diffusers import AutoencoderDC

            return AutoencoderDC(**VAE), "diffusion_pytorch_model"
        if part == "gemma":
            from transformers import Gemma2Config, Gemma2Model

            config = GEMMA | ({"num_hidden_layers": layers} if layers else {})
            return Gemma2Model(Gemma2Config(**config)), "model"
        from diffusers import SanaTransformer2DModel

        config = (DIT_1600M if part == "dit-1600m" else DIT) | ({"num_layers": layers} if layers else {})
        return SanaTransformer2DModel(**config), "diffusion_pytorch_model"


def value(model: torch.nn.Module, name: str, shape: torch.Size, seed: int) -> torch.Tensor:
    """The random tensor of this name."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode()) ^ seed))
    path, _, leaf = name.rpartition(".")
    kind = type(model.get_submodule(path)).__name__
    if kind == "Gemma2RMSNorm":
        return 0.3 * noise  # stored as the distance from 1
    if kind == "RMSNorm":
        return 1 + 0.2 * noise if leaf == "weight" else 0.1 * noise
    if kind.endswith("Embedding"):
        return noise * shape[-1] ** -0.5
    if kind in ("Linear", "Conv2d") and leaf == "weight":
        # The last convolution gives a picture of about -1 to 1.
        gain = 0.5 if name == "decoder.conv_out.weight" else 1.0
        return noise * (gain * shape[1:].numel() ** -0.5)
    if kind in ("Linear", "Conv2d"):
        return 0.1 * noise
    return 0.3 * noise  # tables such as scale_shift_table


def shards(tensors: list[tuple[str, torch.Size]], width: int) -> list[list[tuple[str, torch.Size]]]:
    """Runs of tensors that stay below the size of a file."""
    files: list[list[tuple[str, torch.Size]]] = [[]]
    filled = 0
    for name, shape in tensors:
        size = shape.numel() * width
        if files[-1] and filled + size > SHARD_BYTES:
            files.append([])
            filled = 0
        files[-1].append((name, shape))
        filled += size
    return files


def write(path: Path, model: torch.nn.Module, tensors: list[tuple[str, torch.Size]], dtype: str, seed: int) -> int:
    """One safetensors file; returns the bytes of its tensors."""
    torch_dtype, code = DTYPES[dtype]
    header, at = {}, 0
    for name, shape in tensors:
        size = shape.numel() * torch_dtype.itemsize
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in tensors:
            made = value(model, name, shape, seed).to(torch_dtype).contiguous()
            file.write(made.view(torch.uint8).numpy() if shape else made.numpy().tobytes())
    return at


def main() -> None:
    args = arguments()
    dtype = args.dtype or ("bf16" if args.part == "gemma" else "f32")
    model, stem = skeleton(args.part, args.layers)
    args.out.mkdir(parents=True, exist_ok=True)
    for old in (*args.out.glob(f"{stem}*.safetensors"), *args.out.glob(f"{stem}*.json")):
        old.unlink()
    if args.part == "gemma":
        model.config.architectures = ["Gemma2Model"]
        model.config.to_json_file(args.out / "config.json", use_diff=False)
    else:
        model.save_config(args.out)
    tensors = [(name, tensor.shape) for name, tensor in model.state_dict().items()]
    files = shards(tensors, DTYPES[dtype][0].itemsize)
    weight_map, total = {}, 0
    for number, part in enumerate(files, 1):
        numbered = f"-{number:05}-of-{len(files):05}" if len(files) > 1 else ""
        path = args.out / f"{stem}{numbered}.safetensors"
        total += write(path, model, part, dtype, args.seed)
        weight_map |= {name: path.name for name, _ in part}
    if len(files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (args.out / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    count = sum(shape.numel() for _, shape in tensors)
    print(f"{args.out}: {count} parameters in {len(tensors)} tensors, {total / 1e9:.2f} GB of {dtype}")


if __name__ == "__main__":
    main()
