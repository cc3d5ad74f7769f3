"From two sets of pictures to three kinds of numbers, with the shapes on the arrows (lesson 11)."
from draw import Drawing

TOLD = ("Real and made pictures, both in 8-bit levels, pass through the same fixed network and become "
        "features (M,D) and (N,D). Means and "
        "covariances of both give FD, a kernel over all pairs gives KID, balls around each point give "
        "precision and recall.")
ASKED = ("means and covariances", "FD"), ("kernel over all pairs", "KID"), ("balls around each point",
                                                                            "precision,\nrecall")
SIDES = (45, "real pictures", "M", "#0072B2"), (145, "made pictures", "N", "#D55E00")
CLOUD = (-22, 4), (-14, -11), (-9, 13), (-4, 0), (1, -7), (5, 11), (10, 3), (14, -14), (19, 9), (24, -4)


def draw() -> Drawing:
    d = Drawing(780, 230, TOLD)
    d.box(195, 25, 75, 180, "a fixed\nnetwork", "net")
    d.text(67, 117, "8-bit levels", 11)
    for y, name, count, colour in SIDES:
        d.box(15, y, 105, 44, name, "data")
        d.arrow((120, y + 22), (195, y + 22), label=f"({count},3,H,W)", size=11)
        d.arrow((270, y + 22), (335, y + 22), label=f"({count},D)", size=11)
        d.box(335, y - 5, 76, 54, "", "data")
        turned = CLOUD if count == "M" else [(-right, down) for right, down in CLOUD]
        d.parts += [f'<circle cx="{373 + right}" cy="{y + 22 + down}" r="3" fill="{colour}"/>'
                    for right, down in turned]
        for i in range(3): d.arrow((411, y + 22), (480, 45 + 70 * i))
    for i, (question, answer) in enumerate(ASKED):
        d.box(480, 25 + 70 * i, 175, 40, question, "part")
        d.arrow((655, 45 + 70 * i), (685, 45 + 70 * i))
        d.text(691, 45 + 70 * i, answer, 13, "start", bold=True)
    return d
