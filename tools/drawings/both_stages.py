"What is trained in the two stages, and by what (lesson 10)."
from draw import Drawing


def draw() -> Drawing:
    d = Drawing(760, 330,
                "Stage one: an image is encoded to tokens and decoded to a reconstruction. Three pulls meet at the "
                "reconstruction: the "
                "difference to the image, a perceptual distance, and a discriminator's, scaled to a share of the "
                "others. The discriminator "
                "learns from a loss of its own. Stage two: a finished VQGAN encodes images to tokens; some are "
                "masked; the transformer predicts all, and the cross-entropy counts on the masked ones alone.")
    d.text(20, 22, "Stage one", 14, "start", bold=True)
    d.box(20, 52, 90, 44, "image x\n(B,3,H,W)", "data", 12)
    d.arrow((110, 74), (140, 74))
    d.box(140, 52, 80, 44, "encoder", "part", 12)
    d.arrow((220, 74), (250, 74))
    d.box(250, 52, 80, 44, "tokens\n(B,N)", "data", 12)
    d.arrow((330, 74), (360, 74))
    d.box(360, 52, 80, 44, "decoder", "part", 12)
    d.arrow((440, 74), (470, 74))
    d.box(470, 52, 96, 44, "rebuilt x̂", "data", 12)
    for i, (words, kind) in enumerate((("|x - x̂|", "loss"), ("perceptual", "loss"), ("discriminator", "part"))):
        d.box(630, 20 + 42 * i, 110, 32, words, kind, 12)
        d.arrow((630, 36 + 42 * i), (566, 64 + 10 * i))
    d.text(618, 136, "scaled to a share\nof the others", 11, "end")
    d.arrow((685, 136), (685, 152))
    d.text(685, 162, "its own hinge loss", 11)
    d.text(20, 204, "Stage two", 14, "start", bold=True)
    d.box(20, 228, 90, 44, "image", "data", 12)
    d.arrow((110, 250), (140, 250))
    d.box(140, 228, 80, 44, "encoder\n(fixed)", "known", 12)
    d.arrow((220, 250), (250, 250))
    d.box(250, 228, 80, 44, "tokens\n(B,N)", "data", 12)
    d.arrow((330, 250), (376, 250), label="mask", size=11)
    d.box(376, 228, 74, 44, "with gaps", "data", 12)
    d.arrow((450, 250), (474, 250))
    d.box(474, 228, 90, 44, "transformer", "part", 12)
    d.arrow((564, 250), (630, 250), label="(B,N,K)", size=11)
    d.box(630, 228, 110, 44, "cross-entropy\nof the masked", "loss", 12)
    d.arrow((290, 272), (290, 300), (685, 300), (685, 272))
    d.text(480, 312, "the true tokens", 11)
    return d
