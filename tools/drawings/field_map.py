"The field around MaskGIT: families as rows, years as columns (lesson 13)."
from draw import Drawing

YEARS = ["2018-19", "2020", "2021", "2022", "2023", "2024", "2025"]
# top of the row, boxes above one another
ROWS = {"masked\nlanguage model": (60, 2), "causal": (176, 1), "masked\ngenerative": (234, 2),
        "diffusion,\nabsorbing": (350, 1), "diffusion,\ncontinuous": (408, 1), "next-scale": (466, 1),
        "hybrid": (524, 1)}
LEFT, COLUMN, WIDTH, HEIGHT = 140, 134, 124, 50
KINDS = {"words": "data", "VQ": "net", "bits": "loss", "continuous": "known"}
# family, year, place in the cell, tokens, name, order and passes, FID as published
WORKS = [
    ("masked\nlanguage model", "2018-19", 0, "words", "BERT", "15 % masked, 1", "to understand"),
    ("masked\nlanguage model", "2018-19", 1, "words", "Mask-Predict", "surest first", "to translate"),
    ("causal", "2020", 0, "VQ", "VQGAN + GPT", "row by row, 256", "FID 15.78"),
    ("causal", "2024", 0, "VQ", "LlamaGen-3B", "row by row, 576", "FID 2.18, 384 px"),
    ("masked\ngenerative", "2022", 0, "VQ", "MaskGIT", "surest first, 8", "FID 6.18"),
    ("masked\ngenerative", "2022", 1, "VQ", "MAGE", "surest first, 20", "FID 9.10, no class"),
    ("masked\ngenerative", "2023", 0, "bits", "MAGVIT-v2", "surest first", "FID 1.78"),
    ("masked\ngenerative", "2023", 1, "VQ", "Muse", "surest first", "text to image"),
    ("masked\ngenerative", "2024", 0, "bits", "MaskBit", "surest first, 256", "FID 1.52"),
    ("masked\ngenerative", "2025", 0, "VQ", "Halton", "spread out, 32", "FID 2.59, 384 px"),
    ("masked\ngenerative", "2025", 1, "VQ", "Di[M]O", "all at once, 1", "FID 6.91"),
    ("diffusion,\nabsorbing", "2021", 0, "words", "D3PM", "random order", "the bound"),
    ("diffusion,\nabsorbing", "2024", 0, "words", "MDLM, MD4", "random order", "a weighted loss"),
    ("diffusion,\nabsorbing", "2025", 0, "VQ", "ReMDM", "masks again", "for many steps"),
    ("diffusion,\ncontinuous", "2020", 0, "continuous", "DDPM", "less noise, 1000", "in pixels"),
    ("diffusion,\ncontinuous", "2021", 0, "continuous", "ADM", "less noise, 250", "FID 10.94"),
    ("diffusion,\ncontinuous", "2022", 0, "continuous", "DiT-XL/2", "less noise, 250", "FID 2.27"),
    ("next-scale", "2024", 0, "VQ", "VAR-d16", "coarse to fine, 10", "FID 3.55"),
    ("hybrid", "2024", 0, "continuous", "MAR-B", "random order, 256", "FID 2.31"),
]


def draw() -> Drawing:
    d = Drawing(1090, 622,
                "Families as rows, years as columns. MaskGIT, 2022, takes masking from BERT and Mask-Predict and "
                "its VQ tokens from "
                "VQGAN, and decodes in 8 passes at a published FID of 6.18 on ImageNet 256; after it come "
                "MAGVIT-v2, MaskBit, Halton and "
                "the one-step Di[M]O in its own family, and beside it causal models, absorbing and continuous "
                "diffusion, next-scale VAR and the hybrid MAR.")
    for i, year in enumerate(YEARS):
        d.text(LEFT + COLUMN * (i + 0.5), 26, year, 14, bold=True)
        if i:
            d.parts.append(f'<line x1="{LEFT + COLUMN * i}" y1="14" x2="{LEFT + COLUMN * i}" y2="582" '
                           'stroke="#E4E4E4"/>')
    for family, (top, high) in ROWS.items(): d.text(14, top + 29 * high - 4, family, 13, anchor="start", bold=True)

    def corner(family: str, year: str, place: int) -> tuple[float, float]:
        return LEFT + COLUMN * YEARS.index(year) + (COLUMN - WIDTH) / 2, ROWS[family][0] + 58 * place

    for family, year, place, tokens, name, order, score in WORKS:
        x, y = corner(family, year, place)
        d.box(x, y, WIDTH, HEIGHT, kind=KINDS[tokens])
        for words, shift, size, bold in ((name, 11, 13, True), (order, 26, 11.5, False), (score, 40, 11.5, False)):
            d.text(x + WIDTH / 2, y + shift, words, size, bold=bold)
    x, y = corner("masked\ngenerative", "2022", 0)
    d.parts.append(f'<rect x="{x - 2:g}" y="{y - 2:g}" width="{WIDTH + 4}" height="{HEIGHT + 4}" rx="8" fill="none" '
                   'stroke="#D55E00" stroke-width="3"/>')
    middle, right = x + WIDTH / 2, LEFT + COLUMN - (COLUMN - WIDTH) / 2
    d.arrow((right, 143), (middle, 143), (middle, y - 3))
    d.arrow((right + COLUMN, 201), (middle - 30, 201), (middle - 30, y - 3))
    d.arrow((x - 10, 375), (LEFT + COLUMN * 5 + 5, 375))
    d.arrow((LEFT + COLUMN * 2.5, 350), (LEFT + COLUMN * 2.5, y + 25), (x - 3, y + 25), dashed=True)
    x = 140
    for tokens, told in (("words", "words, pixel values"), ("VQ", "VQ tokens"), ("bits", "bits (LFQ)"),
                         ("continuous", "continuous values")):
        d.box(x, 595, 18, 14, kind=KINDS[tokens])
        d.text(x + 25, 602, told, 12, anchor="start")
        x += 50 + 6.7 * len(told)
    d.text(1076, 602, "after the order: passes. FID on ImageNet 256, as published", 12, anchor="end")
    return d
