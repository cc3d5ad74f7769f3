"Multi-head attention, with the shapes on the arrows (lesson 03)."
from draw import Drawing


def draw() -> Drawing:
    d = Drawing(860, 300,
                "Tokens (B,N,dim) pass one linear layer that makes queries, keys and values, each (B,h,N,d) with d "
                "= dim / h. In "
                "every head queries times keys over the root of d are scores (B,h,N,N), a softmax over the keys "
                "makes them weights, and "
                "the weights mix the values (B,h,N,d). The heads are joined to (B,N,dim), and a last linear layer "
                "mixes them.")
    for shift in (12, 6): d.box(263 + shift, 34 - shift, 410, 240, "", "note")  # the other heads, behind the first
    d.box(263, 34, 410, 240, "", "data")
    d.text(468, 257, "one of h heads, d = dim / h", 12)
    d.box(20, 132, 70, 44, "tokens", "data", bold=True)
    d.arrow((90, 154), (165, 154), label="(B,N,dim)", size=11)
    d.box(165, 132, 68, 44, "linear\nqkv", "net", 12)
    for y, name in ((50, "queries Q"), (132, "keys K"), (196, "values V")):
        d.arrow((233, 154), (250, 154), (250, y + 22), (280, y + 22))
        d.box(280, y, 84, 44, name, "part", 12)
    d.arrow((364, 72), (438, 72), label="(B,h,N,d)", size=11)
    d.arrow((364, 154), (400, 154), (400, 84), (438, 84))
    d.box(438, 50, 72, 56, "scores\nQ Kᵀ / √d", "net", 12)
    d.arrow((510, 78), (584, 78), label="(B,h,N,N)", size=11)
    d.box(584, 50, 76, 56, "softmax\nover keys", "net", 12)
    d.arrow((622, 106), (622, 196))
    d.text(614, 150, "weights\n(B,h,N,N)", 11, anchor="end", mono=True)
    d.box(584, 196, 76, 44, "weights · V", "net", 12)
    d.arrow((364, 218), (584, 218), label="(B,h,N,d)", size=11)
    d.arrow((660, 218), (716, 218), (716, 176))
    d.text(702, 232, "(B,h,N,d)", 11, mono=True, anchor="start")
    d.box(690, 132, 56, 44, "join\nheads", "part", 12)
    d.arrow((746, 154), (780, 154))
    d.box(780, 132, 60, 44, "linear\nproj", "net", 12)
    d.arrow((810, 132), (810, 94))
    d.text(776, 113, "(B,N,dim)", 11, mono=True)
    d.box(775, 50, 70, 44, "tokens", "data", bold=True)
    return d
