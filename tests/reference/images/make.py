"""Writes the image files beside it and `expected.json`, the pixels that Pillow finds in them.

`python make.py` with Pillow (13.0.0 wrote the files here), with libwebp and libtiff.

Each image has blocks of 8 by 8 pixels, each of one colour, 3 wide and 2 high. `expected.json` has for each file the width and
height that a viewer shows, the colour in the middle of each block, row by row, and how far another decoder may be off:
0 for lossless formats, 4 of 255 for lossy ones (rounding of the cosine transform and of the colour conversion).
What is transparent lies over white.
"""

import io
import json
import os

import PIL
from PIL import Image, ImageOps

folder = os.path.dirname(os.path.abspath(__file__))
COLOURS = [(220, 30, 40), (30, 200, 60), (40, 60, 210), (230, 210, 40), (120, 120, 120), (20, 20, 30)]
expected = {}


def blocks(mode="RGB"):
    image = Image.new("RGB", (24, 16))
    for n, colour in enumerate(COLOURS):
        image.paste(colour, (n % 3 * 8, n // 3 * 8, n % 3 * 8 + 8, n // 3 * 8 + 8))
    return image.convert(mode)


def shown(data):
    """What a viewer shows of a file."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    image.load()
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def write(name, image, kind, tolerance=0, **options):
    data = io.BytesIO()
    image.save(data, kind, **options)
    data = data.getvalue()
    with open(os.path.join(folder, name), "wb") as file:
        file.write(data)
    image = shown(data)
    width, height = image.size
    middles = [image.getpixel((x, y)) for y in range(4, height, 8) for x in range(4, width, 8)]
    expected[name] = {"size": [width, height], "middles": middles, "tolerance": tolerance}


for orientation in range(1, 9):
    exif = Image.Exif()
    exif[0x0112] = orientation
    write(f"turned_{orientation}.jpg", blocks(), "JPEG", 4, exif=exif, quality=95, subsampling=0)
    write(f"turned_{orientation}.png", blocks(), "PNG", exif=exif)
    write(f"turned_{orientation}.webp", blocks(), "WEBP", exif=exif, lossless=True)
    write(f"turned_{orientation}.tif", blocks(), "TIFF", exif=exif, compression="tiff_deflate")

jpeg = dict(kind="JPEG", tolerance=4, quality=95)
write("sub_444.jpg", blocks(), subsampling=0, **jpeg)
write("sub_422.jpg", blocks(), subsampling=1, **jpeg)
write("sub_420.jpg", blocks(), subsampling=2, **jpeg)
write("progressive.jpg", blocks(), progressive=True, **jpeg)
write("restarts.jpg", blocks(), restart_marker_blocks=1, **jpeg)
write("grey.jpg", blocks("L"), **jpeg)
write("cmyk.jpg", blocks("CMYK"), **jpeg)

alpha = blocks("RGBA")
alpha.putalpha(Image.linear_gradient("L").resize(alpha.size, Image.NEAREST))
write("palette.png", blocks().quantize(6), "PNG")
write("alpha.png", alpha, "PNG")
write("lossless.webp", blocks(), "WEBP", lossless=True)
write("lossy.webp", blocks(), "WEBP", 4, quality=95)
write("alpha.webp", alpha, "WEBP", lossless=True, exact=True)
write("plain.bmp", blocks(), "BMP")
write("palette.bmp", blocks().quantize(6), "BMP")
write("plain.tif", blocks(), "TIFF")
write("grey.tif", blocks("L"), "TIFF")
write("bits.tif", blocks("1"), "TIFF")
for compression in ["tiff_lzw", "packbits"]:
    write(f"{compression}.tif", blocks(), "TIFF", compression=compression)
write("palette.gif", blocks().quantize(6), "GIF")
second = blocks().transpose(Image.Transpose.ROTATE_180)
write("frames.gif", blocks(), "GIF", save_all=True, append_images=[second], loop=0)
write("frames.webp", blocks(), "WEBP", save_all=True, append_images=[second], lossless=True)
write("frames.png", blocks(), "PNG", save_all=True, append_images=[second])
write("plain.ppm", blocks(), "PPM")
write("grey.pgm", blocks("L"), "PPM")

with open(os.path.join(folder, "expected.json"), "w") as file:
    lines = [f"{json.dumps(name)}: {json.dumps(expected[name])}" for name in sorted(expected)]
    file.write("{\n" + ",\n".join(lines) + "\n}\n")
print(len(expected), "files by Pillow", PIL.__version__)
