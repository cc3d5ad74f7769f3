"One step of decoding as a loop: predict, draw, rank, keep (lesson 07)."
from draw import Drawing

KNOWN, MASKED, GUESS, KEPT = "#DDDDDD", "#222222", "#F5D9A0", "#E69F00"
FIRST = {(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (2, 0), (3, 0)}  # the tokens that are known from the start
BEST = {(1, 1), (3, 3), (2, 1)}  # those that this step keeps


def squares(missing: str, kept: str) -> list[list[str]]:
    "A grid of 4x4 tokens, of which the gaps have one colour and the best of them another."
    colours = {place: KNOWN for place in FIRST} | {place: kept for place in BEST}
    return [[colours.get((i, j), missing) for j in range(4)] for i in range(4)]


def draw() -> Drawing:
    d = Drawing(800, 258, "Tokens with gaps (B,N) go through the transformer; each of the M gaps gets logits (M,K), "
                          "a code is drawn for each (M,), the codes are ranked by log p plus T times Gumbel noise, "
                          "the best are kept and the others masked again; then the next step.")
    grids = [(20, "tokens with gaps", squares(MASKED, MASKED)), (412, "a guess everywhere", squares(GUESS, GUESS)),
             (700, "the best stay", squares(MASKED, KEPT))]
    for x, words, colours in grids:
        d.grid(x, 28, 20, colours)
        d.text(x + 40, 124, words, 12)
    d.arrow((104, 68), (162, 68), label="(B,N)")
    d.box(162, 43, 100, 50, "transformer", "net")
    d.arrow((262, 68), (412, 68), label="logits (M,K)\ndraw a code each")
    d.arrow((496, 68), (546, 68), label="(M,)")
    d.box(546, 43, 100, 50, "rank by\nlog p + T g", "part")
    d.arrow((646, 68), (700, 68), label="keep")
    again = "the others are masked again, and the next step sees what was kept"
    d.arrow((740, 134), (740, 176), (60, 176), (60, 134), label=again, dashed=True)
    legend = [("known", KNOWN), ("masked", MASKED), ("guessed", GUESS), ("kept for good", KEPT)]
    for i, (words, colour) in enumerate(legend):
        d.grid(190 + 115 * i, 212, 16, [[colour]])
        d.text(212 + 115 * i, 220, words, 12, anchor="start")
    return d
