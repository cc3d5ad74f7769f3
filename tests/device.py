"""A second device on a machine without one.

`DEVICE` computes with the CPU's numbers, but its tensors are strangers to the CPU's: an operation on both raises, as on
CUDA, unless the CPU's tensor is a number (0-dimensional) or an index; a CPU generator cannot fill them, and numpy
cannot read them.

How it works: `OnDevice` is a tensor that has shape, type and the device's name, but no memory; it holds a CPU tensor.
torch sends each operation on such tensors, and each that makes one, to `run`, which compares the devices, does the same
on the tensors inside and wraps what comes out. `waits()` lists the operations at which a program would wait for a GPU
(`.item()`, `.cpu()`, a mask as an index, a blocking copy to it). `without_float64()` refuses float64, as Apple's MPS
does. Needs torch's private way to write a backend in Python; without it, tests skip.
"""
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

try:
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
    _setup_privateuseone_for_python_backend("standin")
except (ImportError, RuntimeError) as error:
    pytest.skip(f"this torch ({torch.__version__}) cannot register a backend written in Python: {error}",
                allow_module_level=True)

DEVICE = torch.device("standin:0")
MOVES = {"aten::_to_copy", "aten::copy_", "aten::_copy_from", "aten::_copy_from_and_resize"}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index",
            "aten::_unsafe_index_put"}
ASKING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::bincount", "aten::masked_select", "aten::equal",
          "aten::is_nonzero", "aten::_unique2"}
asked: list[str] | None = None  # names of operations that wait, while somebody listens
float64 = True


class OnDevice(torch.Tensor):
    "A tensor on `DEVICE` that holds its numbers in the CPU tensor `inside`."
    @staticmethod
    def __new__(cls, inside: torch.Tensor):
        layout = dict(strides=inside.stride(), storage_offset=inside.storage_offset(), dtype=inside.dtype)
        return torch.Tensor._make_wrapper_subclass(cls, inside.shape, **layout, device=DEVICE)

    def __init__(self, inside: torch.Tensor): self.inside = inside

    def __repr__(self, **options) -> str: return f"OnDevice({self.inside})"

    def tolist(self): return self.cpu().tolist()

    def numpy(self, **options): raise TypeError(f"cannot convert a {DEVICE} tensor to numpy: use Tensor.cpu() first")

    def data_ptr(self): return self.inside.data_ptr()

    def storage(self): return self.inside.storage()

    def untyped_storage(self): return self.inside.untyped_storage()

    def __array__(self, *args, **options): return self.numpy()

    def __reduce_ex__(self, protocol): return self.detach().cpu().__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None): return run(operation, args, kwargs or {})


def is_ours(x) -> bool: return isinstance(x, OnDevice)


def check_mixing(name: str, args: tuple, flat: list) -> None:
    "RuntimeError where CUDA raises it."
    indices = [] if name not in INDEXING or not is_ours(args[0]) else args[1]
    strangers = [x
                 for x in flat if isinstance(x, torch.Tensor) and not is_ours(x) and x.dim() > 0
                 and not any(x is index for index in indices)]
    if strangers:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found {DEVICE} and "
                           f"{strangers[0].device}")


def makes_wait(name: str, args: tuple, kwargs: dict, out) -> bool:
    "Whether the CPU would have to wait for a GPU's result."
    if name == "aten::copy_":
        return is_ours(args[0]) != is_ours(args[1]) and not (is_ours(args[0])
                                                             and kwargs.get("non_blocking", args[2:3] == (True,)))
    if name in MOVES: return is_ours(args[0]) and not is_ours(out)
    masks = [x for x in args[1] if isinstance(x, torch.Tensor) and x.dtype == torch.bool] if name in INDEXING else []
    return name in ASKING or bool(masks)


def run(operation, args: tuple, kwargs: dict):
    "One operation, of which a tensor or the result is on the device."
    name, flat = operation._schema.name, list(leaves((args, tuple(kwargs.values()))))
    ours = [x for x in flat if is_ours(x)]
    target = kwargs.get("device")
    on_device = torch.device(target).type == DEVICE.type if target is not None else bool(ours)
    if ours and name not in MOVES: check_mixing(name, args, flat)
    if on_device and any(isinstance(x, torch.Generator) for x in flat):
        raise RuntimeError(f"{name}: expected a '{DEVICE.type}' generator, found 'cpu'")
    plain_args, plain_kwargs = mapped(plain, args), {key: mapped(plain, x)
                                                     for key, x in kwargs.items() if key != "non_blocking"}
    out = operation(*plain_args, **plain_kwargs)
    if name in ("aten::_copy_from", "aten::_copy_from_and_resize"): return args[1]
    if name.endswith("_") and args and is_ours(args[0]): out = args[0]
    elif name.endswith("_") and args and isinstance(args[0], torch.Tensor) and name == "aten::copy_": out = args[0]
    elif on_device and name != "aten::_local_scalar_dense": out = mapped(wrap, out)
    if asked is not None and ours and makes_wait(name, args, kwargs, out): asked.append(name)
    return out


def leaves(x):
    if isinstance(x, (list, tuple)):
        for part in x: yield from leaves(part)
    else: yield x


def mapped(f, x): return type(x)([mapped(f, part) for part in x]) if type(x) in (list, tuple) else f(x)


def plain(x):
    if is_ours(x): return x.inside
    return torch.device("cpu") if isinstance(x, torch.device) and x.type == DEVICE.type else x


def wrap(x):
    if not isinstance(x, torch.Tensor) or is_ours(x): return x
    if x.dtype == torch.float64 and not float64:
        raise TypeError(f"cannot make a float64 tensor on {DEVICE}, which has none: use float32")
    return OnDevice(x)


torch.standin.get_rng_state = lambda device=None: torch.empty(0, dtype=torch.uint8)  # its random numbers are the CPU's
torch.standin.set_rng_state = lambda state, device=None: None
# module.to(DEVICE) keeps its parameters, which optimisers hold, as on CUDA
torch.__future__.set_swap_module_params_on_conversion(True)
backend = torch.library.Library("_", "IMPL")
backend.fallback(lambda operation, *args, **kwargs: run(operation, args, kwargs), "PrivateUse1")


@contextmanager
def waits() -> Iterator[list[str]]:
    "Inside the block, a list of the names of all operations that would make the CPU wait for the device."
    global asked
    asked, before = [], asked
    try: yield asked
    finally: asked = before


@contextmanager
def without_float64() -> Iterator[None]:
    "Inside the block the device has no float64."
    global float64
    float64 = False
    try: yield
    finally: float64 = True
