"""Writes the parquet files beside it: tables of images with their columns named and typed as users have them.

`python make.py [folder]`, and `python make.py folder --all` for many more forms of one table; the
files here were written with pyarrow 26.0.1, numpy 2.4.6 and pillow 13.0.0.
Each table has seven images of 8 by 8 pixels; image i has the colour (20 i, 255 - 20 i, 100).
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

folder = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
rows = range(7)


def encoded(i, kind="PNG", **options):
    pixels = np.empty((8, 8, 3), np.uint8)
    pixels[:] = (20 * i, 255 - 20 * i, 100)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


parts = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def struct(values, paths=True):
    return pa.array([{"bytes": v, "path": f"{i}.png" if paths else None} for i, v in enumerate(values)], parts)


images = [encoded(i) for i in rows]
image = struct(images)
# What `datasets` stores for sound has the same type.
sound = struct([b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes([i] * 20) for i in rows])


def write(name, columns, features=None, **options):
    table = pa.table(columns)
    if features is not None:
        # As `datasets` writes it.
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    options = {"row_group_size": 3, "write_statistics": False, **options}
    pq.write_table(table, os.path.join(folder, name + ".parquet"), **options)


def names(*names):
    return {"names": list(names), "_type": "ClassLabel"}


picture, text = {"_type": "Image"}, {"dtype": "string", "_type": "Value"}

# The columns of CIFAR-100 on the hub.
write(
    "cifar100",
    {
        "img": image,
        "coarse_label": pa.array([i % 2 for i in rows]),
        "fine_label": pa.array([i % 3 for i in rows]),
    },
    {"img": picture, "coarse_label": names("fish", "tree"), "fine_label": names("trout", "oak", "shark")},
)

# Of the Oxford pets: text labels with a dictionary, and a boolean that is no label. The second shard
# lacks a class of the first and has one of its own.
pets = {"path": text, "label": text, "dog": {"dtype": "bool", "_type": "Value"}, "image": picture}
breeds = [["pug", "Bengal", "beagle"][i % 3] for i in rows], [["pug", "Sphynx"][i % 2] for i in rows]
for n, labels in enumerate(breeds):
    columns = {
        "path": pa.array([f"images/{i}.jpg" for i in rows]),
        "label": pa.array(labels).dictionary_encode(),
        "dog": pa.array([i % 3 != 1 for i in rows]),
        "image": image,
    }
    write(f"pets-0000{n}-of-00002", columns, pets, compression="zstd")

# No metadata: bytes that are images among bytes that are not, large types, nulls.
write(
    "plain",
    {
        "key": pa.array([f"k{i}" for i in rows], pa.large_string()),
        "features": pa.array([np.float32([i, 1]).tobytes() for i in rows], pa.large_binary()),
        "payload": pa.array([None if i == 0 else v for i, v in enumerate(images)], pa.large_binary()),
        "species": pa.array([None if i == 4 else ["lynx", "fox"][i % 2] for i in rows], pa.large_string()),
    },
    compression="gzip",
    data_page_version="2.0",
)

# Labels of every type, and several that are text.
signed, unsigned = (pa.int8, pa.int16, pa.int32, pa.int64), (pa.uint8, pa.uint16, pa.uint32, pa.uint64)
whole = {str(t()): pa.array([i % 3 for i in rows], t()) for t in signed + unsigned}
write(
    "types",
    {
        "image": image,
        **whole,
        "flag": pa.array([i % 2 == 0 for i in rows]),
        "plain_text": pa.array([["b", "a", "ä"][i % 3] for i in rows]),
        "large_text": pa.array([["b", "a", "ä"][i % 3] for i in rows], pa.large_string()),
        "real": pa.array([i / 2 for i in rows]),
        "list": pa.array([[i] for i in rows]),
    },
    compression="none",
    use_dictionary=False,
)

# A test split of the hub: every label is -1.
write(
    "unlabelled",
    {"image": image, "label": pa.array([-1 for i in rows])},
    {"image": picture, "label": names("cat", "dog")},
)
write("partly", {"image": image, "label": pa.array([0, -1, 1, None, 1, 0, 1])})
write("no_label", {"image": image, "id": pa.array(list(rows)), "caption": pa.array([f"no. {i}" for i in rows])})
write("sound", {"audio": sound, "picture": image, "label": pa.array([i % 2 for i in rows])})
write(
    "described_sound",
    {"image": sound, "frame": image},
    {"image": {"sampling_rate": 16000, "_type": "Audio"}, "frame": picture},
)
write("two_images", {"mask": struct(images[::-1]), "photo": image}, {"mask": picture, "photo": picture})
write("no_bytes", {"image": struct([None] * 7), "label": pa.array([i % 2 for i in rows])}, {"image": picture})
write("paths", {"image": pa.array([f"images/{i}.jpg" for i in rows]), "label": pa.array([i % 2 for i in rows])})
write("lists", {"images": pa.array([[{"bytes": v, "path": None}] for v in images], pa.list_(parts))})
write(
    "webp",
    {"webp": struct([encoded(i, "WEBP", lossless=True) for i in rows]), "cls": pa.array([i % 2 for i in rows])},
)

if "--all" in sys.argv:
    kinds = itertools.product(
        ["none", "snappy", "gzip", "brotli", "zstd", "lz4"],
        ["1.0", "2.0"],
        [True, False],
        [1, 3, 100],
        [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())],
        [image, pa.array(images), pa.array(images, pa.large_binary())],
        [True, False],
    )
    for n, (codec, page, words, group, text, picture, chunked) in enumerate(kinds):
        columns = {"anything": picture, "breed": pa.array(breeds[0]).cast(text)}
        options = dict(compression=codec, data_page_version=page, use_dictionary=words, row_group_size=group)
        write(f"all{n:04}", columns, use_content_defined_chunking=chunked, **options)
