"""What running a model would take, without running it: live bytes, operations and traffic of a symbolic pass.

Floating-point tensors are fake: they have a shape, a dtype and a lifetime, but no memory. Whole numbers (token
ids, masks, positions) are real, so code that looks at them takes the same way as in a real pass. The model's own
code runs, with autograd and autocast, so nothing is assumed about an architecture.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

_aten: Any = torch.ops.aten
# Questions about fake values: "are all of them finite?", "are these two alike?" are answered with yes.
_QUESTIONS = {_aten._local_scalar_dense.default, _aten.is_nonzero.default}
_ALIKE = _aten.allclose.default
_DEVICE = torch.ops.prim.device.default  # asked of every fake tensor, very often
_FLOATING = frozenset({torch.float64, torch.float32, torch.bfloat16, torch.float16})


@dataclass(frozen=True)
class Work:
    """How much there is to compute.

    Attributes:
        product_flops: Floating-point operations of matrix products and attention, by dtype.
        moved_bytes: What all other operations read and write.
        calls: Operations of either sort.
    """

    product_flops: Mapping[torch.dtype, float] = field(default_factory=dict)
    moved_bytes: float = 0.0
    calls: float = 0.0

    def __add__(self, other: Work) -> Work:
        dtypes = {*self.product_flops, *other.product_flops}
        return Work(
            {d: self.product_flops.get(d, 0.0) + other.product_flops.get(d, 0.0) for d in dtypes},
            self.moved_bytes + other.moved_bytes,
            self.calls + other.calls,
        )

    def __mul__(self, times: float) -> Work:
        flops = {dtype: value * times for dtype, value in self.product_flops.items()}
        return Work(flops, self.moved_bytes * times, self.calls * times)

    def __sub__(self, other: Work) -> Work:
        return self + other * -1.0


class Ledger:
    """What symbolic work took so far.

    Attributes:
        live_bytes: Bytes of all storages that are alive, by device type.
        peak_bytes: The most that were, since the beginning or :meth:`restart`.
    """

    def __init__(self) -> None:
        self.live_bytes: dict[str, int] = defaultdict(int)
        self.peak_bytes: dict[str, int] = defaultdict(int)
        self._flops: dict[torch.dtype, float] = defaultdict(float)
        self._moved_bytes, self._calls = 0.0, 0
        self._products: dict[Any, float] = defaultdict(float)
        self._known: set[int] = set()

    @property
    def live(self) -> int:
        """Live bytes on all devices."""
        return sum(self.live_bytes.values())

    @property
    def peak(self) -> int:
        """The sum of the devices' peaks, as run records have it."""
        return sum(self.peak_bytes.values())

    @property
    def work(self) -> Work:
        """All work since the beginning; that of a part is a difference."""
        return Work(dict(self._flops), self._moved_bytes, self._calls)

    @property
    def product_shapes(self) -> int:
        """Different shapes of 16-bit products since :meth:`restart`, those of some weight."""
        least = 4e-4 * sum(self._products.values())
        return sum(flops >= least for flops in self._products.values())

    def restart(self) -> None:
        """Let the peak begin at what is alive, and the shapes at none."""
        self.peak_bytes = defaultdict(int, self.live_bytes)
        self._products.clear()

    def hold(self, tensor: Tensor) -> None:
        """Count a tensor's storage for as long as it lives."""
        storage = tensor.untyped_storage()
        key, device, size = id(storage), _device(tensor).type, storage.nbytes()
        if key in self._known or device == "meta":
            return
        self._known.add(key)
        self.live_bytes[device] += size
        self.peak_bytes[device] = max(self.peak_bytes[device], self.live_bytes[device])
        weakref.finalize(storage, self._release, key, device, size)

    def _release(self, key: int, device: str, size: int) -> None:
        self._known.discard(key)
        self.live_bytes[device] -= size

    def count(self, operation: Any, inputs: list[Tensor], outputs: list[Tensor], call: Any) -> None:
        """Add an operation's work: products by what they compute, others by what they move."""
        self._calls += 1
        counted = flop_registry.get(operation.overloadpacket)
        if counted is not None:
            arguments, settings, result = call
            flops = counted(*arguments, **settings, out_val=result)
            self._flops[inputs[0].dtype] += flops
            if inputs[0].dtype == torch.bfloat16:
                self._products[(operation, *(tensor.shape for tensor in inputs))] += flops
        else:
            self._moved_bytes += sum(tensor.nbytes for tensor in (*inputs, *outputs))


class _Symbolic(TorchDispatchMode):
    """Runs operations on whole numbers for real and all others on fake tensors, and keeps the ledger."""

    def __init__(self, ledger: Ledger, fake: FakeTensorMode) -> None:
        super().__init__()
        self.ledger, self.fake = ledger, fake

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _DEVICE:
            return _device(args[0])
        kwargs = kwargs or {}
        inputs = [*_tensors(args), *_tensors(kwargs.values())]
        symbolic = any(isinstance(value, FakeTensor) for value in inputs)
        if symbolic and func in _QUESTIONS and inputs[0].dtype == torch.bool:
            return True
        if symbolic and func is _ALIKE:
            return True
        if symbolic or (not inputs and _makes_floats(func, args, kwargs)):
            result = self.fake.__torch_dispatch__(func, types, args, kwargs)
        else:
            with _disable_current_modes():
                result = func(*args, **kwargs)
        if not _is_view(func):
            outputs = list(_tensors(result if isinstance(result, tuple | list) else (result,)))
            for output in outputs:
                self.ledger.hold(output)
            self.ledger.count(func, inputs, outputs, (args, kwargs, result))
        return result


def _device(tensor: Tensor) -> torch.device:
    return tensor.fake_device if isinstance(tensor, FakeTensor) else tensor.device


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)


@cache
def _is_view(func: Any) -> bool:
    return any(
        value.alias_info is not None and not value.alias_info.is_write for value in func._schema.returns
    )


# What a process holds on a processor besides what is alive, fitted to trainings and labellings of MiniLM, SmolLM2-135M
# and OPT-125M and to the cells of recipes/paper-sizes.yaml, in bfloat16 with one thread; see benchmarks/plan.py. There
# is no constant, as the fit found next to none.
# glibc does not give back, or finds no use for, so much of what comes and goes with every pass:
_FRAGMENTATION = 0.4
# oneDNN keeps a kernel for every shape of a 16-bit product that it has seen, up to 1,024 of them; with the
# holes that these leave between activations, each takes half as much where nothing trains:
_KERNEL_BYTES = {"training": 1.1 * 2**20, "asking": 0.55 * 2**20}
_KERNELS_KEPT = 1024
# Loading a tokenizer leaves so much of the heap taken or with holes, by entry of its vocabulary: SmolLM2's has merges,
# MiniLM's, of word pieces, has none.
_MERGED_ENTRY_BYTES, _ENTRY_BYTES = 900, 350


def process_bytes(live: int, transient: int, kernels: int, work: Literal["training", "asking"]) -> int:
    """What a process takes above its libraries, as ``peak_memory_bytes`` of a run record has it.

    Args:
        live: The most bytes that are alive at once.
        transient: Those of them that come and go with every pass.
        kernels: Different shapes of 16-bit products, over all passes.
        work: What the passes are for.
    """
    kept = min(kernels, _KERNELS_KEPT) * _KERNEL_BYTES[work]
    return round(live + _FRAGMENTATION * transient + kept)


def tokenizer_bytes(tokenizer: Any) -> int:
    """What a process takes for a tokenizer."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    merged = backend is not None and type(backend.model).__name__ == "BPE"
    return len(tokenizer) * (_MERGED_ENTRY_BYTES if merged else _ENTRY_BYTES)


@contextlib.contextmanager
def symbolic() -> Iterator[Ledger]:
    """Within it, tensors with floating-point numbers have no memory, and a ledger counts what they would take."""
    ledger = Ledger()
    apply = torch.nn.Module._apply
    torch.nn.Module._apply = _Conversion().apply  # type: ignore[assignment]
    try:
        with warnings.catch_warnings(), _Symbolic(ledger, FakeTensorMode(allow_non_fake_inputs=True)):
            # Copying a module asks a tensor for its place in memory; that of a fake one is rightly none.
            warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor", UserWarning)
            yield ledger
    finally:
        torch.nn.Module._apply = apply


class _Conversion:
    """``Module.to`` for fake parameters: torch swaps them in place, which tensors with weak references forbid."""

    def __init__(self) -> None:
        self._converted: Any = WeakIdKeyDictionary()

    @property
    def apply(self) -> Any:
        """Stands in for ``Module._apply``; tied parameters stay tied."""

        def convert(module: torch.nn.Module, change: Any, recurse: bool = True) -> torch.nn.Module:
            for child in module.children() if recurse else ():
                child._apply(change)
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = self._of(parameter, change)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = change(buffer)
            return module

        return convert

    def _of(self, parameter: torch.nn.Parameter, change: Any) -> torch.nn.Parameter:
        if parameter not in self._converted:
            with torch.no_grad():
                value = change(parameter)
            if value is parameter:
                return parameter
            self._converted[parameter] = torch.nn.Parameter(value, parameter.requires_grad)
        return self._converted[parameter]


def _makes_floats(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether an operation without tensors gives floating-point numbers."""
    dtype = kwargs.get("dtype")
    if dtype is not None:
        return dtype in _FLOATING
    numbers = args[1:] if func.overloadpacket is _aten.full else args
    told = func.overloadpacket in (_aten.full, _aten.arange)
    return not told or any(isinstance(number, float) for number in numbers)
