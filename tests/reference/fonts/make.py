"""Makes the fonts of this folder. Prints for some glyphs, at 100 pixels per em, the box of the ink (left, bottom, right, top),
the advance, and the area of the ink in pixels as FreeType draws it without hints; tests/fonts.rs compares with these.

    apt-get download fonts-noto-cjk=1:20220127+repack1-1 && dpkg -x fonts-noto-cjk_*.deb cjk
    npm pack @fontsource/noto-emoji@5.3.2 && mkdir emoji && tar xzf fontsource-noto-emoji-5.3.2.tgz -C emoji
    pip install fonttools==4.68.0 brotli==1.2.1 pillow
    python make.py cjk emoji
"""
import io
import sys
from pathlib import Path
from fontTools import subset
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.boundsPen import BoundsPen
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTCollection, TTFont, newTable
from fontTools.ttLib.tables.sbixGlyph import Glyph as Picture
from fontTools.ttLib.tables.sbixStrike import Strike
from fontTools.ttLib.tables.TupleVariation import TupleVariation
from PIL import Image, ImageDraw, ImageFont, features

HERE = Path(__file__).parent


def reduced(font, text):
    options = subset.Options(layout_features=[], hinting=False, glyph_names=False, notdef_outline=False, name_IDs=[0, 1, 2, 6, 13, 16])
    options.drop_tables += ["GSUB", "GPOS", "GDEF", "BASE", "VORG", "vhea", "vmtx", "STAT", "DSIG"]
    subsetter = subset.Subsetter(options)
    subsetter.populate(text=text)
    subsetter.subset(font)
    font.flavor, font.recalcTimestamp = None, False
    return font


def about(path, index, character):
    font = TTFont(path, fontNumber=index)
    glyph, glyphs = font.getBestCmap()[ord(character)], font.getGlyphSet()
    pen = BoundsPen(glyphs)
    glyphs[glyph].draw(pen)
    k = 100 / font["head"].unitsPerEm
    drawn = Image.new("L", (300, 300))
    face = ImageFont.truetype(str(path), 100, index=index, layout_engine=ImageFont.Layout.BASIC)
    ImageDraw.Draw(drawn).text((100, 200), character, font=face, fill=255, anchor="ls")
    box = [round(v * k, 2) for v in pen.bounds]
    print(character, box, "advance", round(glyphs[glyph].width * k, 2), "area", round(sum(i * n for i, n in enumerate(drawn.histogram())) / 255))


def square(left, bottom, right, top):
    pen = TTGlyphPen(None)
    pen.moveTo((left, bottom))
    for point in [(left, top), (right, top), (right, bottom)]:
        pen.lineTo(point)
    pen.closePath()
    return pen.glyph()


def built(family, code, outline):
    """A font with one glyph, 1000 units per em."""
    font = FontBuilder(1000)
    font.setupGlyphOrder([".notdef", "glyph"])
    font.setupCharacterMap({code: "glyph"})
    font.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "glyph": outline})
    font.setupHorizontalMetrics({".notdef": (500, 0), "glyph": (1000, 0)})
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": family, "styleName": "Regular", "psName": family.replace(" ", "") + "-Regular"})
    font.setupOS2(usWeightClass=100)
    font.setupPost(keepGlyphNames=False)
    font.font["head"].created = font.font["head"].modified = 0
    font.font.recalcTimestamp = False
    return font


# A collection of two fonts of compact outlines (CFF). The second has the characters, and letters that figures must not take.
collection = TTCollection()
source = Path(sys.argv[1]) / "usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc"
for index, text in [(2, "B"), (0, "猫犬AéάO")]:
    collection.fonts.append(reduced(TTFont(source, fontNumber=index), text))
collection.save(HERE / "cjk.ttc")
# TrueType outlines.
for path in sorted(Path(sys.argv[2]).glob("package/files/noto-emoji-*-400-normal.woff2")):
    font = TTFont(path)
    if ord("🐕") in font.getBestCmap():
        reduced(font, "🐕").save(HERE / "emoji.ttf")
# A picture of the glyph beside its outline, as emoji in colour have, for a character that no other font has.
font = built("Pictures", 0x10FFFC, square(0, 0, 1000, 1000))
png = io.BytesIO()
Image.new("RGBA", (2, 2), "orange").save(png, "PNG")
strike = Strike(ppem=100, resolution=72)
for glyph in [".notdef", "glyph"]:
    picture = png.getvalue() if glyph == "glyph" else None
    strike.glyphs[glyph] = Picture(glyphName=glyph, graphicType="png " if picture else None, imageData=picture)
font.font["sbix"] = newTable("sbix")
font.font["sbix"].version, font.font["sbix"].flags, font.font["sbix"].strikes = 1, 1, {100: strike}
font.save(HERE / "pictures.ttf")
# A variable font, thinnest by default: a bar 60 units high at weight 100, 460 at weight 900, so 210 at 400.
font = built("Variable Bar", ord("一"), square(100, 300, 900, 360))
font.setupFvar([("wght", 100, 100, 900, "Weight")], [])
taller = [(0, 0), (0, 400), (0, 400), (0, 0)] + [(0, 0)] * 4
font.setupGvar({"glyph": [TupleVariation({"wght": (0, 1, 1)}, taller)]})
font.save(HERE / "variable.ttf")

print("Pillow", __import__("PIL").__version__, "FreeType", features.version("freetype2"))
for name, index, character in [("cjk.ttc", 1, "猫"), ("cjk.ttc", 1, "犬"), ("emoji.ttf", 0, "🐕")]:
    about(HERE / name, index, character)
