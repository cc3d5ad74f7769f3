__version__ = "0.1.0"

from importlib import import_module

# What a script needs first; each is imported when it is asked for, so that `import maskgit_nb` itself needs no torch.
FIRST = dict(MaskGIT="inpainting", PLAIN="inpainting", REFINED="inpainting", GENERATING="inpainting",
             composite="inpainting", hole_to_mask="inpainting", VQGAN="vqgan", VQGANConfig="vqgan",
             BidirectionalTransformer="transformer", TransformerConfig="transformer", MultiHeadAttention="attention",
             decode="decoding", mask_counts="schedules", drawn_cats="cats", random_holes="images", box_holes="images",
             show_images="images", load_image="data", load_hole="data", save_png="files")
__all__ = [*FIRST]

# Where names of 0.1.0's first modules have moved to.
MOVED = dict(images=("cats", "data", "files"), vqgan=("files",), inpainting=("lab", "stages"),
             training=("stages", "data", "files"),
             fid=("scores",), experiments=("sweeps", "scores", "data", "files"), cli=("data", "files"))


def __getattr__(name: str):
    if name not in FIRST: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{FIRST[name]}"), name)


def __dir__() -> list[str]: return sorted([*globals(), *FIRST])


def moved(module: str, name: str):
    "What `name` means that `module` does not hold any more. AttributeError if it never did."
    for place in () if name.startswith("_") else MOVED.get(module.split(".")[-1], ()):
        found = import_module(f"{__name__}.{place}")
        if name in found.__all__: return getattr(found, name)
    raise AttributeError(f"module {module!r} has no attribute {name!r}")
