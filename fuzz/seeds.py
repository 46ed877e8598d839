#!/usr/bin/env python3
"""Writes the seeds of every fuzz target (fuzz/corpus) and the words that JSON inputs are made of (fuzz/dict)."""

import json
import struct
from pathlib import Path

FUZZ = Path(__file__).resolve().parent
MODEL = FUZZ.parent / "models/sana-tiny"
FIXTURES = FUZZ.parent / "tests/fixtures"
CONFIGS = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "transformer/config.json",
    "vae/config.json",
]


def seed(target, name, data):
    folder = FUZZ / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)


def words(target, *documents):
    found = {"null", "true", "false", "NaN", "Infinity", "-Infinity", "1e308", "-1", "18446744073709551615", "[]", "{}"}

    def walk(value):
        if isinstance(value, dict):
            for key, inner in value.items():
                found.add(f'"{key}"')
                walk(inner)
        elif isinstance(value, list):
            for inner in value[:20]:
                walk(inner)
        elif isinstance(value, str):
            found.add(f'"{value}"')

    for document in documents:
        walk(json.loads(document.replace("-Infinity", "null")))
    folder = FUZZ / "dict"
    folder.mkdir(exist_ok=True)
    escaped = (word.replace("\\", "\\\\").replace('"', '\\"') for word in sorted(found) if word.isascii())
    (folder / target).write_text("".join(f'"{word}"\n' for word in escaped if word.isprintable()))


def safetensors(header, data):
    text = header if isinstance(header, str) else json.dumps(header)
    return struct.pack("<Q", len(text)) + text.encode() + data


def tensor(dtype, shape, start, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def weights():
    files = {
        "empty": safetensors({}, b""),
        "metadata": safetensors({"__metadata__": {"format": "pt"}, "a": tensor("F32", [2], 0, 8)}, bytes(8)),
        "types": safetensors(
            {
                "a": tensor("F32", [2, 2], 0, 16),
                "b": tensor("BF16", [3], 16, 22),
                "c": tensor("F16", [1, 1, 1], 22, 24),
                "d": tensor("F64", [], 24, 32),
                "e": tensor("I64", [1], 32, 40),
                "f": tensor("U8", [0, 5], 40, 40),
            },
            bytes(range(40)),
        ),
        "overlap": safetensors({"a": tensor("F32", [2], 0, 8), "b": tensor("F32", [2], 4, 12)}, bytes(12)),
        "twice": safetensors('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
                             '"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', bytes(8)),
        "deep": safetensors("[" * 500, b""),
    }
    for name, data in files.items():
        seed("weights_header", name, data)
    words("weights_header", json.dumps({kind: ["a"] for kind in ["dtype", "shape", "data_offsets", "__metadata__"]}),
          json.dumps(["F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F4", "F8_E4M3", "C64"]))


def folders():
    def index(**files):
        return json.dumps({"metadata": {"total_size": 4}, "weight_map": files})

    shard = "model-00001-of-00001.safetensors"
    seed("model_folder", "one", "\0".join(["", index(a=shard), shard]))
    seed("model_folder", "variant", "\0".join(["bf16", index(a=shard), "model.bf16.safetensors"]))
    seed("model_folder", "outside", "\0".join(["", index(a="../model.safetensors")]))
    seed("model_folder", "missing", "\0".join(["fp16", index(a=shard, b="b"), shard, "model.fp16.safetensors"]))
    words("model_folder", index(a=shard, b="../model.safetensors", c="model.bf16.safetensors"),
          json.dumps(["model.safetensors.index.bf16.json", "model.safetensors", "/", "..", "."]))


def configs():
    found = [(MODEL / name).read_text() for name in CONFIGS]
    for number, text in enumerate(found):
        seed("configs", f"model-{number}", text)
        seed("whole_model", f"model-{number}", bytes([number]) + text.encode())
    for path in sorted(FIXTURES.glob("*/*.json")):
        for name, value in json.loads(path.read_text()).items():
            if isinstance(value, dict) and name in ("text_encoder", "transformer", "vae", "scheduler", "config"):
                found.append(json.dumps(value))
                seed("configs", f"{path.parent.name}-{name}", found[-1])
    words("configs", *found)
    words("whole_model", *found)


def prompts():
    for name, text in {
        "plain": "A Red Circle on a white background",
        "space": "\x1c \t\u3000a\u200bb\ufeff\x85",
        "case": "ΑΣ ΣΟΦΟΣ İSTANBUL STRAẞE Ǆ",
        "special": "<bos><pad> <eos> <unk> <mask>",
        "combining": "e" + "\u0301" * 300,
        "nul": "\0" * 50,
        "word": "x" * 2000,
        "emoji": "👩‍👩‍👧‍👦🟥" * 20,
    }.items():
        seed("prompt", name, text)


def tokenizers():
    whole = (MODEL / "tokenizer/tokenizer.json").read_text()
    small = json.loads(whole)
    vocab = dict(list(small["model"]["vocab"].items())[:300])
    merges = [merge for merge in small["model"]["merges"]
              if "".join(merge if isinstance(merge, list) else merge.split(" ")) in vocab][:20]
    small["model"] |= {"vocab": vocab, "merges": merges}
    few = json.loads(json.dumps(small))
    few["model"] |= {"vocab": {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "a": 4, "b": 5, "ab": 6},
                     "merges": [["a", "b"]]}
    few["added_tokens"] = few["added_tokens"][:4]
    parts = [
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}, {"type": "Strip",
         "strip_left": True, "strip_right": True}, {"type": "Prepend", "prepend": "x"}]}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a|b)+"}, "behavior": "Isolated", "invert": True}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
        {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"model": {"type": "WordPiece", "unk_token": "<unk>", "continuing_subword_prefix": "##",
                   "max_input_chars_per_word": 100, "vocab": {"<unk>": 0, "a": 1, "##b": 2}}},
        {"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.5]], "byte_fallback": True}},
        {"model": {"type": "WordLevel", "vocab": {"<unk>": 0, "a": 1}, "unk_token": "<unk>"}},
        {"truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 9}},
        {"padding": {"strategy": {"Fixed": 8}, "direction": "Left", "pad_to_multiple_of": 0, "pad_id": 0,
                     "pad_type_id": 0, "pad_token": "<pad>"}},
    ]
    seed("tokenizer_json", "small", json.dumps(few))
    seed("tokenizer_json", "larger", json.dumps(small))
    for number, part in enumerate(parts):
        seed("tokenizer_json", f"part-{number}", json.dumps(few | part))
    words("tokenizer_json", json.dumps(few), *(json.dumps(part) for part in parts))


weights()
folders()
configs()
prompts()
tokenizers()
