"The whole line of inpainting, and where the kit adds to it (lesson 08)."
from draw import Drawing

# the lesson's smallest example
HOLE = ["..#.....", "..###...", "..###...", "..###...", "..###...", "........", "........", "........"]
GIVEN, MISSING, MASKED, TOKEN = "#CFE3F2", "#222222", "#E69F00", "#7FB3D5"


def hole_cells(known: str) -> list[list[str]]: return [[MISSING if c == "#" else known for c in row] for row in HOLE]


def token_cells(known: str, masked: str) -> list[list[str]]:
    "The 4x4 tokens of `HOLE`: masked if any of their 2x2 pixels is missing."
    def missing(i: int, j: int) -> bool: return any(HOLE[2 * i + k // 2][2 * j + k % 2] == "#" for k in range(4))
    return [[masked if missing(i, j) else known for j in range(4)] for i in range(4)]


def draw() -> Drawing:
    d = Drawing(900, 400,
                "A picture with a hole is filled and encoded to tokens; the hole becomes a mask of tokens. Eight "
                "times the "
                "transformer gives logits for the masked tokens and the surest codes are kept. The tokens are "
                "decoded and "
                "composited with the known pixels. Dashed: a smooth filling, evidence of half-seen tokens, a "
                "blended seam.")
    d.grid(28, 66, 8, hole_cells(GIVEN))                                     # the picture
    d.text(60, 146, "picture", 12)
    d.text(60, 50, "(B,3,64,64)", 11, mono=True)
    d.arrow((96, 98), (128, 98))
    d.box(128, 76, 84, 44, "fill the hole\ngrey", "net", 12)
    d.arrow((212, 98), (248, 98))
    d.box(248, 76, 84, 44, "VQGAN\nencode", "net", 12)
    d.arrow((332, 98), (376, 98))
    d.grid(378, 66, 16, token_cells(TOKEN, TOKEN))                           # its tokens
    d.text(410, 50, "(B,256)", 11, mono=True)
    d.arrow((444, 98), (482, 98))
    d.grid(28, 216, 8, hole_cells("#F2F2EE"))                                # the hole
    d.text(60, 296, "hole", 12)
    d.text(60, 200, "(B,1,64,64)", 11, mono=True)
    d.arrow((96, 248), (158, 248))
    d.box(158, 226, 120, 44, "any pixel missing?\nhole_to_mask", "net", 12)
    d.arrow((278, 248), (376, 248))
    d.grid(378, 216, 16, token_cells("#F2F2EE", MASKED))                     # the mask
    d.text(410, 200, "(B,256)", 11, mono=True)
    d.text(410, 296, "mask", 12)
    d.arrow((444, 248), (514, 248), (514, 132))
    d.grid(484, 66, 16, token_cells(TOKEN, MASKED))                          # tokens with gaps
    d.text(506, 50, "tokens with gaps", 11)
    d.arrow((550, 98), (590, 98))
    d.box(590, 76, 96, 44, "transformer", "net", 12)
    d.arrow((686, 98), (786, 98), label="(B,256,1024)", size=11)
    d.box(786, 70, 94, 56, "draw codes,\nkeep the\nsurest", "net", 12)
    d.arrow((833, 70), (833, 24), (516, 24), (516, 40))
    d.text(690, 14, "8 times, until no gap is left", 12)
    d.arrow((833, 126), (833, 226))
    d.text(842, 176, "(B,256)", 11, anchor="start", mono=True)
    d.box(786, 226, 94, 44, "VQGAN\ndecode", "net", 12)
    d.arrow((833, 270), (833, 330), (740, 330))
    d.box(640, 308, 100, 44, "composite", "net", 12)
    d.arrow((60, 304), (60, 376), (690, 376), (690, 352))
    d.text(360, 366, "hole and known pixels", 12)
    d.arrow((640, 330), (566, 330))
    d.grid(500, 298, 8, [[GIVEN] * 8] * 8)
    d.text(455, 322, "mended", 12)
    d.text(452, 340, "(B,3,64,64)", 11, mono=True)
    d.box(112, 8, 116, 34, "1 smooth filling", "note", 12)                   # the additions
    d.arrow((170, 42), (170, 76), dashed=True)
    d.box(590, 154, 150, 40, "2 evidence of\nhalf-seen tokens", "note", 12)
    d.arrow((290, 120), (290, 174), (590, 174), dashed=True)
    d.arrow((734, 154), (734, 102), dashed=True)
    d.box(628, 242, 124, 34, "3 blend the seam", "note", 12)
    d.arrow((690, 276), (690, 308), dashed=True)
    return d
