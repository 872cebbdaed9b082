"""A pretend CUDA device, for machines without one.

Inside `PretendCuda` torch.cuda says that there is one GPU. Tensors that are made on or sent to "cuda" say that they are
there, and every operation on them runs on a tensor of the CPU that they hold inside, so that results can be compared.
What a real GPU refuses is refused: operations on tensors of two devices (those without dimensions and copies excepted,
as in PyTorch), and `numpy()`. What makes the host wait is counted, with the line of the package that did it. Memory is
that of a caching allocator with a capacity: what is freed stays reserved until `empty_cache`, or until there is too
little, and `mem_get_info` does not count it as free.

Not pretended: gradients (it is inference mode throughout), streams, kernels' numerics, anything asynchronous.
"""

from __future__ import annotations

import ctypes
import math
import subprocess
import sys
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
aten = torch.ops.aten

# Without it a torch without CUDA takes no tensor that says it is there.
GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace {
using Guard = c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>;
C10_REGISTER_GUARD_IMPL(CUDA, Guard)
}
"""


def why_not(folder: Path) -> str:
    """Make torch ready for pretended tensors, with files in a folder; why that is not possible, "" if it is."""
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
        names_cuda = value == "cuda" if isinstance(value, str) else value == torch.device("cuda")
        return CUDA if isinstance(value, (str, torch.device)) and names_cuda else value


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

    def collect(self) -> None:
        """Notice what is gone."""
        for key, (storage, size) in list(self._storages.items()):
            if storage.expired():
                del self._storages[key]
                self.live -= size

    def hold(self, tensors: list[torch.Tensor]) -> None:
        """Take in the memory of new tensors; OutOfMemoryError if it does not fit."""
        self.collect()
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage._cdata in self._storages:
                continue
            size = -(-storage.nbytes() // BLOCK) * BLOCK
            self.count += 1
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
    ):
        super().__init__()
        self.memory, self.fault = Memory(capacity, short), fault
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
            "current_device": lambda: 0,
            "_lazy_init": lambda: None,
            "mem_get_info": lambda device=None: (int(memory.capacity - memory.reserved), int(memory.capacity)),
            "empty_cache": memory.empty_cache,
            "get_device_capability": lambda device=None: (7, 5),
            "memory_allocated": live,
            "memory_reserved": lambda device=None: memory.reserved,
            "max_memory_allocated": lambda device=None: memory.peak,
            "reset_peak_memory_stats": lambda device=None: setattr(memory, "peak", live()),
        }
        self._patches = [mock.patch.object(torch.cuda, name, fake) for name, fake in fakes.items()]
        self._patches.append(mock.patch.object(F, "scaled_dot_product_attention", _attention))
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
        if not sent and not on_device:
            return func(*args, **kwargs)
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
            kwargs["device"] = torch.device("cpu")
        out = _run(func, *tree_map(_inner, (args, kwargs)))
        given = {id(value.inner): value for value in flat if isinstance(value, OnDevice)}
        self.memory.hold([t for t in tree_flatten(out)[0] if isinstance(t, torch.Tensor) and id(t) not in given])

        def there(value):
            if not isinstance(value, torch.Tensor):
                return value
            return given[id(value)] if id(value) in given else OnDevice(value)

        return tree_map(there, out)

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
        if here != there:
            self._wait("to the device" if there else "to the host")
        kwargs = {name: value for name, value in kwargs.items() if name in ("dtype", "memory_format")}
        made = aten._to_copy.default(_inner(tensor), **kwargs)
        if not there:
            return made
        self.memory.hold([made])
        return OnDevice(made)

    def _copied(self, target, source, non_blocking=False):
        here, there = isinstance(source, OnDevice), isinstance(target, OnDevice)
        if here != there:
            self._wait("to the device" if there else "to the host")
        _inner(target).copy_(_inner(source))
        return target

    def _wait(self, kind: str) -> None:
        self.waits[kind, _line()] += 1


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
    wide = tree_map(lambda t: t.float() if isinstance(t, torch.Tensor) and t.dtype == torch.float16 else t, args)
    out = func(*wide, **kwargs)  # a CPU cannot do everything in fp16
    return tree_map(lambda t: t.half() if isinstance(t, torch.Tensor) and t.dtype == torch.float32 else t, out)


def _line() -> str:
    """The innermost line of the package on the stack."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"
