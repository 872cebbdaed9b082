"""A pretend CUDA device, for machines without one.

Inside `PretendCuda` torch.cuda says that there is one GPU. Tensors that are made on or sent to "cuda" say that they are
there, and every operation on them runs on a tensor of the CPU that they hold inside, so that results can be compared.
What a real GPU refuses is refused: operations on tensors of two devices (those without dimensions and copies excepted,
as in PyTorch), and `numpy()`. What makes the host wait is counted, with the line of the package that did it. Memory is
that of a caching allocator with a capacity: what is freed stays reserved until `empty_cache`, or until there is too
little, and `mem_get_info` does not count it as free.

With ``meta`` there are no values, only shapes: networks of full size are counted in seconds. What comes to the host is
zeros then, and conditions are true. What jiterator compiles for a GPU, the C++ compiler compiles here.

Not pretended: gradients (it is inference mode throughout), streams, kernels' numerics, anything asynchronous.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map

CUDA = torch.device("cuda", 0)
BLOCK = 512  # bytes: the caching allocator's smallest
PACKAGE = str(Path(__file__).resolve().parents[1] / "umamba2")
HALVES = (torch.float16, torch.bfloat16)
aten = torch.ops.aten

# Without it a torch without CUDA takes no tensor that says it is there.
GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace {
using Guard = c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>;
C10_REGISTER_GUARD_IMPL(CUDA, Guard)
}
"""


_guard: list[str] = []  # the answer of `why_not`, once there is one


def why_not(folder: Path) -> str:
    """Make torch ready for pretended tensors, with files in a folder; why that is not possible, "" if it is."""
    if not _guard:
        _guard.append(_load_guard(folder))
    return _guard[0]


def _load_guard(folder: Path) -> str:
    if torch.version.cuda is not None:
        return "found a torch with CUDA, expected one without"
    root, library = Path(torch.__file__).parent, folder / "guard.so"
    (folder / "guard.cpp").write_text(GUARD)
    command = ["g++", "-shared", "-fPIC", "-std=c++20", f"-I{root / 'include'}", str(folder / "guard.cpp")]
    command += [f"-L{root / 'lib'}", "-lc10", "-o", str(library)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "found no g++, expected a C++ compiler"
    if done.returncode:
        return f"found no guard compiled ({done.stderr[:200]}), expected torch's headers to work"
    ctypes.CDLL(str(library))
    return ""


class OnDevice(torch.Tensor):
    """A tensor of the pretend device."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, device=CUDA,
        )  # fmt: skip
        made.inner = inner
        return made

    def __repr__(self):
        return f"OnDevice({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func}: found a tensor of the pretend device outside of it")


class _Indexed(TorchFunctionMode):
    """cuda:0 where the caller says cuda: without a GPU, torch cannot find out which one is meant."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.numpy:
            if isinstance(args[0], OnDevice):
                raise TypeError("can't convert cuda:0 device type tensor to numpy")
            with _disable_current_modes():  # torch refuses it inside of any
                return func(*args, **kwargs)
        if func is torch.tensor and kwargs.get("device") is not None:  # built on the host and sent, past any mode
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if func is torch.Tensor.new_tensor and isinstance(args[0], OnDevice):
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}).to(CUDA)
        if func is torch.device:
            return self._indexed(func(*args, **kwargs))
        return func(*map(self._indexed, args), **{name: self._indexed(value) for name, value in kwargs.items()})

    @staticmethod
    def _indexed(value):
        names_cuda = isinstance(value, (str, torch.device)) and value in ("cuda", torch.device("cuda"))
        return CUDA if names_cuda else value


class Memory:
    """What a caching allocator holds.

    Args:
        capacity: Bytes in all.
        short: The number of the allocation that fails; None: none.
    """

    def __init__(self, capacity: float, short: int | None):
        self.capacity, self.short, self.count = capacity, short, 0
        self.live = self.reserved = self.peak = 0
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self._old: set[int] = set()  # what has lived for long, as weights do, is looked at now and then

    def collect(self, everything: bool = True) -> None:
        """Notice what is gone."""
        for key in list(self._storages if everything else self._storages.keys() - self._old):
            storage, size = self._storages[key]
            if storage.expired():
                del self._storages[key]
                self.live -= size
        if everything:
            self._old = set(self._storages)

    def hold(self, tensors: list[torch.Tensor]) -> None:
        """Take in the memory of new tensors; OutOfMemoryError if it does not fit."""
        self.collect(everything=self.count % 256 == 0)
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage._cdata in self._storages:
                continue
            size = -(-storage.nbytes() // BLOCK) * BLOCK
            self.count += 1
            if self.live + size > min(self.capacity, self.peak):
                self.collect()
            if self.live + size > self.capacity or self.count == self.short:
                raise torch.cuda.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes (pretended)")
            self._storages[storage._cdata] = StorageWeakRef(storage), size
            self.live += size
        self.peak = max(self.peak, self.live)
        self.reserved = max(self.reserved, self.live)

    def empty_cache(self) -> None:
        """Give back what is reserved for nothing."""
        self.collect()
        self.reserved = self.live


class PretendCuda(TorchDispatchMode):
    """The device, as long as this context lasts.

    Args:
        capacity: Bytes of its memory.
        fault: May return an error to raise instead of an operation; asked with its number.
        short: The number of the allocation for which there is no memory, once; None: for all there is.
        meta: Without values.
        noted: Is told of every operation but those on the host alone: its name, the line of the package, its arguments
            and its results, with tensors as they are inside.

    Attributes:
        memory: What is held.
        waits: How often the host waited, by the kind of waiting and the line of the package.
        count: Operations so far.
    """

    def __init__(
        self,
        capacity: float = 2**40,
        fault: Callable[[int], Exception | None] = lambda number: None,
        short: int | None = None,
        meta: bool = False,
        noted: Callable[[str, str, list, list], None] | None = None,
    ):
        super().__init__()
        self.memory, self.fault = Memory(capacity, short), fault
        self.inside = torch.device("meta" if meta else "cpu")
        self.noted = noted
        self._pinned: dict[int, StorageWeakRef] = {}
        self.waits: Counter[tuple[str, str]] = Counter()
        self.count = 0
        self._patches: list = []
        self._inference = torch.inference_mode()
        self._indexed = _Indexed()

    def __enter__(self):
        memory = self.memory

        def live(device=None):
            memory.collect()
            return memory.live

        fakes = {
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "device_count": lambda: 1,
            "device": lambda device: contextlib.nullcontext(),
            "current_device": lambda: 0,
            "_lazy_init": lambda: None,
            "mem_get_info": lambda device=None: (int(memory.capacity - memory.reserved), int(memory.capacity)),
            "empty_cache": memory.empty_cache,
            "get_device_capability": lambda device=None: (7, 5),
            "memory_allocated": live,
            "memory_reserved": lambda device=None: memory.reserved,
            "max_memory_allocated": lambda device=None: memory.peak,
            "reset_peak_memory_stats": lambda device=None: setattr(memory, "peak", live()),
            "synchronize": lambda device=None: self._wait("synchronize"),
        }
        self._patches = [mock.patch.object(torch.cuda, name, fake) for name, fake in fakes.items()]
        self._patches.append(mock.patch.object(F, "scaled_dot_product_attention", _attention))
        self._patches.append(mock.patch.object(torch.Tensor, "pin_memory", lambda tensor: self._pin(tensor.clone())))
        self._patches.append(mock.patch.object(torch.cuda.jiterator, "_create_jit_fn", self._jitted))
        for patch in self._patches:
            patch.start()
        self._inference.__enter__()
        self._indexed.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._indexed.__exit__(*error)
        self._inference.__exit__(*error)
        for patch in reversed(self._patches):
            patch.stop()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        flat, _ = tree_flatten((args, kwargs))
        sent = any(isinstance(value, torch.device) and value.type == "cuda" for value in flat)
        on_device = any(isinstance(value, OnDevice) for value in flat)
        pinned = kwargs.pop("pin_memory", None)
        if not sent and not on_device:
            out = func(*args, **kwargs)
            return self._pin(out) if pinned else out
        name = _name(func)
        if name == "_has_compatible_shallow_copy_type":
            return False  # modules then make new parameters, as they do between devices
        if _is_composite(func):
            return self._taken_apart(func, args, kwargs)
        self.count += 1
        if (error := self.fault(self.count)) is not None:
            raise error
        if func is aten._to_copy.default:
            return self._sent(args[0], kwargs)
        if func is aten.copy_.default:
            return self._copied(*args)
        if self.inside.type == "meta" and name in ("_local_scalar_dense", "is_nonzero"):
            self._wait(name)
            return True
        if name in ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "_unique2", "equal"):
            self._wait(name)
        indexing = name.startswith(("index", "_unsafe_index", "_index_put")) and name != "index_select"
        for value in flat:
            if on_device and isinstance(value, torch.Tensor) and not isinstance(value, OnDevice):
                if indexing:
                    self._wait("an index of the host")
                elif value.dim():
                    raise RuntimeError(
                        f"Expected all tensors to be on the same device (pretended: {func} at {_line()})"
                    )
            if indexing and isinstance(value, OnDevice) and value.dtype == torch.bool and value is not args[0]:
                self._wait("a mask as an index")
        if sent:
            kwargs["device"] = self.inside
        out = _run(func, *tree_map(self._there, (args, kwargs)))
        return self._held(name, flat, out)

    def _there(self, value):
        """A tensor inside; numbers and indices of the host as the device takes them."""
        value = _inner(value)
        return value.to(self.inside) if isinstance(value, torch.Tensor) and value.device != self.inside else value

    def _held(self, name, flat, out):
        """Take in the results of an operation."""
        given = {id(value.inner): value for value in flat if isinstance(value, OnDevice)}
        results = [t for t in tree_flatten(out)[0] if isinstance(t, torch.Tensor)]
        self.memory.hold([t for t in results if id(t) not in given])
        self._note(name, flat, results)

        def there(value):
            if not isinstance(value, torch.Tensor):
                return value
            return given[id(value)] if id(value) in given else OnDevice(value)

        return tree_map(there, out)

    def _pin(self, tensor):
        self._pinned[tensor.untyped_storage()._cdata] = StorageWeakRef(tensor.untyped_storage())
        return tensor

    def _is_pinned(self, tensor) -> bool:
        storage = self._pinned.get(tensor.untyped_storage()._cdata)
        return storage is not None and not storage.expired()

    def _note(self, name, flat, results):
        if self.noted is not None:
            self.noted(name, _line(), [_inner(value) for value in flat], results)

    def _jitted(self, code: str, **numbers):
        """What `torch.cuda.jiterator._create_jit_fn` gives: a function of tensors that broadcasts."""
        name = code.split("(")[0].split()[-1]

        def call(*tensors):
            dtype = functools.reduce(torch.promote_types, [t.dtype for t in tensors])
            self.count += 1
            if (error := self.fault(self.count)) is not None:
                raise error
            if not all(isinstance(t, OnDevice) for t in tensors):
                raise RuntimeError("found a tensor of the host, expected those of the device (pretended)")
            with _disable_current_modes():
                inside = [t.inner for t in tensors]
                if self.inside.type == "meta":
                    shape = torch.broadcast_shapes(*(t.shape for t in inside))
                    out = torch.empty(shape, dtype=dtype, device="meta")
                else:
                    out = _compiled(code)(inside).to(dtype)
            return self._held(name, list(tensors), out)

        return call

    def _taken_apart(self, func, args, kwargs):
        """Run what torch would take apart by itself, but not in inference mode, where it arrives whole."""
        TorchDispatchMode.__enter__(self)
        try:
            return func.decompose(*args, **kwargs)
        finally:
            TorchDispatchMode.__exit__(self, None, None, None)

    def _sent(self, tensor, kwargs):
        target = kwargs.pop("device", None)
        here = isinstance(tensor, OnDevice)
        there = here if target is None else target.type == "cuda"
        waits = not (kwargs.get("non_blocking") and there and self._is_pinned(tensor))
        if here != there and waits:
            self._wait("to the device" if there else "to the host")
        kwargs = {name: value for name, value in kwargs.items() if name in ("dtype", "memory_format")}
        if self.inside.type == "meta":
            if not there:
                return torch.zeros(tensor.shape, dtype=kwargs.get("dtype") or tensor.dtype)
            kwargs["device"] = self.inside
        made = aten._to_copy.default(_inner(tensor), **kwargs)
        return self._held("_to_copy", [tensor], made) if there else made

    def _copied(self, target, source, non_blocking=False):
        here, there = isinstance(source, OnDevice), isinstance(target, OnDevice)
        if here != there and not (non_blocking and self._is_pinned(source if there else target)):
            self._wait("to the device" if there else "to the host")
        inside, values = _inner(target), _inner(source)
        if here == there and _same_memory(inside, values):
            return target  # torch does nothing, as in `a[i] += b`
        if here == there or self.inside.type == "cpu":
            inside.copy_(values)
        self._note("copy_", [source], [_inner(target)])
        return target

    def _wait(self, kind: str) -> None:
        self.waits[kind, _line()] += 1


@cache
def _compiled(code: str) -> Callable[[list[torch.Tensor]], torch.Tensor]:
    """The function of C++ code for one element, as a function of fp32 tensors that broadcasts; made by the compiler."""
    name, count = code.split("(")[0].split()[-1], code.split("{")[0].count("T ") - 1
    arguments = ", ".join(f"in[{i}][n]" for i in range(count))
    source = f"""
#include <cmath>
static inline float rsqrtf(float x) {{ return 1.0f / std::sqrt(x); }}
{code}
extern "C" void run(long size, const float* const* in, float* out) {{
    for (long n = 0; n < size; ++n) out[n] = {name}<float>({arguments});
}}
"""
    with tempfile.TemporaryDirectory() as folder:
        command = ["g++", "-O1", "-shared", "-fPIC", "-x", "c++", "-", "-o", f"{folder}/code.so"]
        subprocess.run(command, input=source, text=True, check=True)
        library = ctypes.CDLL(f"{folder}/code.so")

    def call(tensors):
        assert len(tensors) == count, f"{name}: found {len(tensors)} tensors, expected {count}"
        flat = [t.float().contiguous() for t in torch.broadcast_tensors(*tensors)]
        out = torch.empty_like(flat[0])
        places = (ctypes.c_void_p * count)(*(t.data_ptr() for t in flat))
        library.run(ctypes.c_long(out.numel()), places, ctypes.c_void_p(out.data_ptr()))
        return out

    return call


def _same_memory(a, b) -> bool:
    def where(t):
        return t.untyped_storage()._cdata, t.storage_offset(), t.shape, t.stride(), t.dtype

    return where(a) == where(b)


def _attention(q, k, v):
    # Torch picks a kernel by the device; this one is right on all.
    return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1) @ v


def _inner(value):
    return value.inner if isinstance(value, OnDevice) else value


@cache
def _name(func) -> str:
    return func._schema.name.split("::")[1]


@cache
def _is_composite(func) -> bool:
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return _name(func) != "is_nonzero" and has_kernel(func.name(), "CompositeImplicitAutograd")


def _run(func, args, kwargs):
    try:
        return func(*args, **kwargs)
    except (NotImplementedError, RuntimeError) as error:
        if "not implemented for" not in str(error):
            raise
    halves = [t.dtype for t in tree_flatten(args)[0] if isinstance(t, torch.Tensor) and t.dtype in HALVES]
    out = func(*tree_map(lambda t: _cast(t, HALVES, torch.float32), args), **kwargs)  # a CPU cannot do everything
    return tree_map(lambda t: _cast(t, (torch.float32,), halves[0]), out)


def _cast(value, given, wanted):
    return value.to(wanted) if isinstance(value, torch.Tensor) and value.dtype in given else value


def _line() -> str:
    """The innermost line of the package on the stack."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            return f"{frame.f_code.co_filename[len(PACKAGE) + 1 :]}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"
