"""Writes the parquet files beside it: seven images of 8 by 8 pixels as the hub has them, by pyarrow.

`python make.py [folder] [--all]` with pyarrow, numpy and pillow; `--all` writes every combination.
Image i has the colour (20 i, 255 - 20 i, 100), label i % 3; row 4 of `score` is missing.
"""

import io
import itertools
import json
import os
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

folder = next((a for a in sys.argv[1:] if not a.startswith("--")), os.path.dirname(os.path.abspath(__file__)))


def png(i):
    pixels = np.empty((8, 8, 3), np.uint8)
    pixels[:] = (20 * i, 255 - 20 * i, 100)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


rows = range(7)
image = pa.array(
    [{"bytes": png(i), "path": f"{i}.png" if i != 5 else None} for i in rows],
    pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
)
table = pa.table(
    {
        "image": image,
        "label": pa.array([i % 3 for i in rows], pa.int64()),
        "score": pa.array([None if i == 4 else i / 4 for i in rows], pa.float32()),
        "exact": pa.array([i / 8 for i in rows], pa.float64()),
        "age": pa.array([10 * i for i in rows], pa.uint8()),
        "depth": pa.array([-i for i in rows], pa.int32()),
        "wide": pa.array([2**63 + i for i in rows], pa.uint64()),
        "tame": pa.array([i % 2 == 0 for i in rows]),
        "name": pa.array([f"näme {i // 2}" for i in rows]),
        "tags": pa.array([["a"] * (i % 3) for i in rows], pa.list_(pa.string())),
        "day": pa.array([i for i in rows], pa.date32()),
    }
)
features = {
    "image": {"_type": "Image"},
    "label": {"names": ["cat", "dog", "emu"], "_type": "ClassLabel"},
}
table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


# The same with columns in which nothing can be missing, where nothing is.
missing = ("score", "path")
parts = pa.struct([pa.field("bytes", pa.binary(), nullable=False), pa.field("path", pa.string())])
strict = pa.schema(
    [
        pa.field(f.name, parts if f.name == "image" else f.type, nullable=f.name in missing)
        for f in table.schema
    ],
    metadata=table.schema.metadata,
)
strict = pa.Table.from_arrays([c.cast(f.type) for c, f in zip(table.columns, strict)], schema=strict)


def write(name, table=table, **options):
    options = {"row_group_size": 3, "write_statistics": False, **options}
    pq.write_table(table, os.path.join(folder, name + ".parquet"), **options)


if "--all" in sys.argv:
    kinds = itertools.product(
        ["none", "snappy", "gzip", "brotli", "zstd", "lz4"],
        ["1.0", "2.0"],
        [True, False],
        [1, 3, 100],
        [1, 1024],
        [True, False],
        [table, strict],
    )
    for n, (codec, page, words, group, batch, rich, columns) in enumerate(kinds):
        write(
            f"all{n:03}_{codec}_{page}_{words}_{group}_{batch}_{rich}",
            columns,
            compression=codec,
            data_page_version=page,
            use_dictionary=words,
            row_group_size=group,
            write_batch_size=batch,
            data_page_size=1 if batch == 1 else None,
            dictionary_pagesize_limit=150 if batch == 1 else None,
            write_statistics=rich,
            write_page_index=rich,
            write_page_checksum=rich,
        )
else:
    write("none", strict, compression="none", use_dictionary=False)
    write("snappy", compression="snappy")
    write("gzip_v2", compression="gzip", data_page_version="2.0")
    write("brotli", compression="brotli", use_dictionary=False)
    write("zstd_v2", strict, compression="zstd", data_page_version="2.0", use_dictionary=False)
    write("lz4", compression="lz4", row_group_size=100)
    # A page per row, and a dictionary that is given up within a row group.
    small = dict(data_page_size=1, write_batch_size=1, row_group_size=100)
    write("pages", dictionary_pagesize_limit=150, **small)
    # Everything that only some writers add.
    rich = dict(write_statistics=True, write_page_index=True, write_page_checksum=True)
    write("rich", row_group_size=4, **rich)
    # What is refused.
    delta = {"image.bytes": "DELTA_LENGTH_BYTE_ARRAY"}
    write("refused_delta", use_dictionary=False, column_encoding=delta)
