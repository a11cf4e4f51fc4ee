"""Makes the fonts of this folder: adds characters to Inter, and a font of the signs that Inter lacks.

    npm pack inter-ui@3.19.3 @fontsource/noto-sans-math@5.3.0
    mkdir inter math && tar xzf inter-ui-3.19.3.tgz -C inter
    tar xzf fontsource-noto-sans-math-5.3.0.tgz -C math
    pip install fonttools==4.68.0 brotli==1.2.1 cffsubr==0.4.0
    python make.py inter math

Glyphs that the files Inter-*.otf have already stay as they are. They were taken from the desktop fonts
of Inter 3.19 with pyftsubset; those added here come from the web fonts of the same version, whose
quadratic curves become cubic ones that differ by at most half a unit of 2816 per em.
"""
import sys
from pathlib import Path
import cffsubr
from fontTools import subset
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.qu2cuPen import Qu2CuPen
from fontTools.pens.t2CharStringPen import T2CharStringPen
from fontTools.ttLib import TTFont
from fontTools.ttLib.scaleUpem import scale_upem

# Latin of living languages, accents, Greek, Cyrillic, punctuation, super- and subscripts, currencies,
# letters of mathematics, numbers, arrows, mathematical and technical signs, shapes. Letters with
# accents of U+1E00 to U+1E9F and of ancient Greek are put together when a figure is drawn.
RANGES = [
    (0x20, 0x7E), (0xA0, 0x17F), (0x1CD, 0x1DC), (0x1E6, 0x1ED), (0x1F4, 0x1F5), (0x1F8, 0x21B), (0x226, 0x233),
    (0x259, 0x259), (0x2B0, 0x3FF), (0x400, 0x45F), (0x48A, 0x4FF), (0x1E9E, 0x1EF9), (0x2000, 0x23FF),
    (0x2460, 0x27FF), (0x2B00, 0x2BFF),
]
# Accents and letters of mathematics (r⃗, ℝ, 𝐱, 𝒟, 𝔼), arrows, mathematical signs.
SIGNS = [
    (0x20D0, 0x20F0), (0x2100, 0x214F), (0x2190, 0x22FF), (0x2308, 0x230B), (0x27C0, 0x27EF),
    (0x1D400, 0x1D433), (0x1D49C, 0x1D4B5), (0x1D538, 0x1D56B), (0x1D7D8, 0x1D7E1),
]
HERE = Path(__file__).parent


def within(code, ranges):
    return any(first <= code <= last for first, last in ranges)


for name in ["Regular", "SemiBold", "Italic"]:
    here = TTFont(HERE / f"Inter-{name}.otf")
    web = TTFont(Path(sys.argv[1]) / f"package/Inter (web)/Inter-{name}.woff2")
    order, cmap = list(here.getGlyphOrder()), dict(here.getBestCmap())
    metrics, strings = dict(here["hmtx"].metrics), {}
    glyphs = here.getGlyphSet()
    for glyph in order:
        pen = T2CharStringPen(metrics[glyph][0], glyphs)
        glyphs[glyph].draw(pen)
        strings[glyph] = pen.getCharString()
    theirs, glyphs, added = web.getBestCmap(), web.getGlyphSet(), {}
    for code in sorted(theirs):
        if code in cmap or not within(code, RANGES):
            continue
        source = theirs[code]
        if source not in added:
            added[source] = glyph = f"uni{code:04X}"
            metrics[glyph] = web["hmtx"][source]
            pen = T2CharStringPen(metrics[glyph][0], glyphs)
            glyphs[source].draw(Qu2CuPen(pen, max_err=0.5, all_cubic=True))
            strings[glyph] = pen.getCharString()
            order.append(glyph)
        cmap[code] = added[source]
    font = FontBuilder(here["head"].unitsPerEm, isTTF=False)
    font.setupGlyphOrder(order)
    font.setupCharacterMap(cmap)
    post = here["name"].getDebugName(6)
    font.setupCFF(post, {"FullName": here["name"].getDebugName(4)}, strings, {})
    font.setupHorizontalMetrics(metrics)
    font.setupHorizontalHeader(ascent=here["hhea"].ascent, descent=here["hhea"].descent)
    font.setupNameTable({})
    font.font["name"] = here["name"]
    font.font["OS/2"], font.font["head"] = here["OS/2"], here["head"]
    font.setupPost(keepGlyphNames=False)
    cffsubr.subroutinize(font.font, keep_glyph_names=False)
    font.font.recalcTimestamp = False
    font.save(HERE / f"Inter-{name}.otf")
    print(name, len(cmap), "characters")

signs = TTFont(Path(sys.argv[2]) / "package/files/noto-sans-math-latin-400-normal.woff2")
wanted = [code for code in signs.getBestCmap() if code not in cmap and within(code, SIGNS)]
options = subset.Options(layout_features=[], hinting=False, glyph_names=False, name_IDs=[0, 1, 2, 4, 5, 6])
options.drop_tables += ["MATH", "GSUB", "GPOS", "GDEF"]
subsetter = subset.Subsetter(options)
subsetter.populate(unicodes=wanted)
subsetter.subset(signs)
scale_upem(signs, 2816)
signs.flavor = None
signs.recalcTimestamp = False
signs.save(HERE / "NotoSansMath-Regular.ttf")
print("signs", len(wanted), "characters")
