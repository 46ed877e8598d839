#!/usr/bin/env python3
"""Writes a prompt list of random words with five columns; the extension of OUT is its format.

    python benches/make_list.py --rows 1000000 /tmp/list.jsonl

.jsonl and .csv need nothing, .parquet needs pyarrow.
"""

import argparse
import csv
import json
import random

WORDS = (
    "red green blue amber violet large small dots stripes rings on with a the quiet harbour morning light "
    "through windows photograph painting of very detailed cat dog astronaut riding horse"
).split()
COLUMNS = ["id", "prompt", "seed", "category", "note"]


def rows(count):
    source = random.Random(1)
    for index in range(count):
        prompt = " ".join(source.choices(WORDS, k=12))
        kind = source.choice(["nature", "people", "things"])
        yield [index, prompt, source.getrandbits(40), kind, f"row {index} of many"]


def write_parquet(out, count):
    import pyarrow
    import pyarrow.parquet

    columns = dict(zip(COLUMNS, map(list, zip(*rows(count)))))
    pyarrow.parquet.write_table(pyarrow.table(columns), out, compression="snappy")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("out")
    args = parser.parse_args()
    if args.out.endswith(".parquet"):
        return write_parquet(args.out, args.rows)
    with open(args.out, "w", newline="") as out:
        if args.out.endswith(".csv"):
            writer = csv.writer(out)
            writer.writerow(COLUMNS)
            writer.writerows(rows(args.rows))
        elif args.out.endswith(".jsonl"):
            out.writelines(json.dumps(dict(zip(COLUMNS, row))) + "\n" for row in rows(args.rows))
        else:
            parser.error("OUT must end in .jsonl, .csv or .parquet")


main()
