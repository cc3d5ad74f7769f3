"The plain transformer, with the shapes on the arrows, and the inside of one block (lesson 04)."
from draw import Drawing


def draw() -> Drawing:
    d = Drawing(900, 330,
                "Tokens (B,N) look up rows of a table (K+1,dim); a position vector (N,dim) is added to each. The "
                "vectors (B,N,dim) pass L "
                "blocks, a norm and a linear layer; each is scored against the table's first K rows, plus a bias: "
                "logits (B,N,K). Inside a block: x plus attention of norm x, then x plus a perceptron of norm x.")
    d.box(15, 78, 70, 44, "tokens", "data", bold=True)
    d.arrow((85, 100), (135, 100), label="(B,N)", size=10)
    d.box(135, 78, 90, 44, "table E\n(K+1,dim)", "net", 12)
    d.arrow((225, 100), (252, 100))
    d.box(252, 88, 24, 24, "+", "part")
    d.box(214, 146, 100, 36, "positions (N,dim)", "net", 11)
    d.arrow((264, 146), (264, 112))
    d.arrow((276, 100), (350, 100), label="(B,N,dim)", size=11)
    for shift in (10, 5, 0): d.box(350 + shift, 78 - shift, 90, 44, "" if shift else "L blocks", "net", bold=True)
    d.arrow((440, 100), (520, 100))
    d.text(486, 89, "(B,N,dim)", 11, mono=True)
    d.box(520, 78, 90, 44, "norm, linear,\nGELU, norm", "net", 12)
    d.arrow((610, 100), (684, 100), label="(B,N,dim)", size=11)
    d.box(684, 78, 90, 44, "h · Eᵀ + bias", "net", 12)
    d.arrow((774, 100), (828, 100), label="(B,N,K)", size=10)
    d.box(828, 78, 58, 44, "logits", "data", bold=True)
    d.arrow((180, 78), (180, 34), (729, 34), (729, 78), dashed=True)
    d.text(454, 22, "the same table at both ends, there without the row of the mask token: (K,dim)", 12)
    d.box(120, 206, 660, 108, "", "note")
    d.text(160, 226, "one block", 12, bold=True)
    d.arrow((395, 122), (395, 206), dashed=True)
    for x, part in ((210, "attention\nbetween tokens"), (490, "perceptron\non each token")):
        d.arrow((x - 20, 292), (x - 20, 246), (x, 246))
        d.box(x, 228, 54, 36, "norm", "part", 12)
        d.arrow((x + 54, 246), (x + 74, 246))
        d.box(x + 74, 224, 112, 44, part, "net", 12)
        d.arrow((x + 186, 246), (x + 212, 246), (x + 212, 280))
        d.box(x + 200, 280, 24, 24, "+", "part")
    d.arrow((140, 292), (410, 292))
    d.text(162, 281, "x", 12, mono=True)
    d.arrow((434, 292), (690, 292))
    d.arrow((714, 292), (765, 292))
    return d
