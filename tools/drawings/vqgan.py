"The first stage, from pixels to tokens and back, with its losses (lesson 02)."
from draw import Drawing


def draw() -> Drawing:
    d = Drawing(900, 395,
                "Pixels (B,3,64,64) go through the encoder to latents (B,32,16,16); the nearest of 1024 codes "
                "gives tokens (B,256). "
                "Looked up, they are codes (B,32,16,16), and the decoder makes pixels (B,3,64,64) of them. A loss "
                "pulls the pixels "
                "made to those given, another codes and latents together; the codes' gradient is copied to the "
                "latents; beside it all, dashed, a discriminator gives each patch of the pixels a score.")
    top, bottom = 40, 230
    d.box(20, top, 110, 48, "pixels x", "data", bold=True)
    d.arrow((130, top + 24), (250, top + 24), label="(B,3,64,64)")
    d.box(250, top, 110, 48, "encoder", "net", bold=True)
    d.arrow((360, top + 24), (490, top + 24), label="(B,32,16,16)")
    d.box(490, top, 100, 48, "latents z", "data", bold=True)
    d.arrow((590, top + 24), (650, top + 24))
    d.box(650, top, 100, 48, "nearest\ncode", "part")
    d.arrow((750, top + 24), (800, top + 24))
    d.box(800, top, 80, 48, "tokens", "data", bold=True)
    d.text(840, top - 14, "(B,256)", 12, mono=True)

    d.arrow((840, top + 48), (840, bottom))
    d.box(800, bottom, 80, 48, "look up", "part")
    d.arrow((800, bottom + 24), (590, bottom + 24), label="(B,32,16,16)")
    d.box(490, bottom, 100, 48, "codes e", "data", bold=True)
    d.arrow((490, bottom + 24), (360, bottom + 24))
    d.box(250, bottom, 110, 48, "decoder", "net", bold=True)
    d.arrow((250, bottom + 24), (130, bottom + 24), label="(B,3,64,64)")
    d.box(20, bottom, 110, 48, "pixels made", "data", bold=True)

    d.box(650, 138, 100, 44, "codebook\n1024 x 32", "net", 12)
    d.arrow((700, 138), (700, top + 48))
    d.arrow((750, 160), (815, 160), (815, bottom))

    d.box(20, 138, 110, 44, "L1, perceptual", "loss", 12)
    d.arrow((75, top + 48), (75, 138))
    d.arrow((75, 182), (75, bottom))
    d.box(505, 138, 70, 44, "VQ loss", "loss", 12)
    d.arrow((540, 138), (540, top + 48))
    d.arrow((540, 182), (540, bottom))
    d.arrow((490, bottom + 10), (455, bottom + 10), (455, top + 40), (490, top + 40), dashed=True)
    d.text(448, 160, "gradient,\ncopied", 12, anchor="end")

    d.box(20, 330, 110, 44, "discriminator", "note", 12)
    d.arrow((75, bottom + 48), (75, 330), dashed=True)
    d.arrow((130, 352), (250, 352), label="(B,1,8,8)", dashed=True)
    d.text(258, 352, "a score for every patch: real or made?", 12, anchor="start")
    return d
