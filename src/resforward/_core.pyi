"""
The engine: packed convolutions, plans of steps, kernels for each instruction set.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy
from numpy.typing import NDArray


COMPILER: str = 'GNU 12.2.0'

FLAGS: str = 'Release-O3 -DNDEBUG '

def isas() -> list[tuple[str, bool]]:
    """
    Instruction sets compiled in, best first, and whether this processor has them.
    """

def fma_peak(isa: str, threads: int, seconds: float = 0.02) -> float:
    """
    GFLOP/s of independent multiply-adds on `threads` threads at once: the most this machine can do now.
    """

class Tensor:
    """Where a batch of feature maps lies in a plan's arena, (n, h, w, c)."""

    def __init__(self, offset: int, n: int, h: int, w: int, c: int, slot: int = -1) -> None: ...

    @property
    def floats(self) -> int: ...

    @property
    def offset(self) -> int: ...

    @offset.setter
    def offset(self, arg: int, /) -> None: ...

    @property
    def n(self) -> int: ...

    @property
    def h(self) -> int: ...

    @property
    def w(self) -> int: ...

    @property
    def c(self) -> int: ...

class PackedConv:
    """
    Weights (h, w, in, out) in the order in which an instruction set reads them.
    """

    def __init__(self, isa: str, weights: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order='C', device='cpu', writable=False)], scale: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu', writable=False)] | None, bias: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu', writable=False)], interleaved: bool = False) -> None: ...

    @property
    def bytes(self) -> int: ...

class PackedWinograd:
    """
    Weights (3, 3, in, out) of a convolution by Winograd's method; see winograd.h.
    """

    def __init__(self, isa: str, weights: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order='C', device='cpu', writable=False)], scale: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu', writable=False)] | None, bias: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu', writable=False)], tile: tuple[int, int], stride: int = 1) -> None: ...

    @property
    def bytes(self) -> int: ...

class Outputs:
    """What a step writes; see Epilogue in kernels.h."""

    def __init__(self, linear: Tensor | None = None, out: Tensor | None = None, preact: Tensor | None = None, scale: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, shift: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, relu: bool = False) -> None: ...

class Plan:
    """Steps in order over one arena."""

    def __init__(self, isa: str, threads: int, arena_floats: int) -> None: ...

    def load(self, n: int, h: int, w: int, c: int, outputs: Outputs) -> None: ...

    def load_rows(self, n: int, h: int, w: int, c: int, margin: int, offset: int, scale: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, shift: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None) -> None: ...

    def conv(self, conv: PackedConv, input: Tensor, outputs: Outputs, stride: int = 1, rate: int = 1, shortcut: Tensor | None = None, shortcut_stride: int = 1, follows: bool = False) -> None: ...

    def winograd(self, conv: PackedWinograd, input: Tensor, outputs: Outputs, shortcut: Tensor | None = None, shortcut_stride: int = 1) -> None: ...

    def conv_rows(self, conv: PackedConv, offset: int, n: int, h: int, w: int, stride: int, margin: int, outputs: Outputs) -> None: ...

    def max_pool(self, input: Tensor, kernel: int, stride: int, pad_y: int, pad_x: int, zero_fill: bool, outputs: Outputs, follows: bool = False) -> None: ...

    def avg_pool(self, input: Tensor, kernel: int, stride: int, outputs: Outputs) -> None: ...

    def group_norm(self, input: Tensor, groups: int, gamma: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu', writable=False)], beta: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu', writable=False)], epsilon: float, out: Tensor) -> None: ...

    def mean(self, input: Tensor, out: Tensor) -> None: ...

    def store(self, input: Tensor, output: int, softmax: bool = False) -> None: ...

    def run(self, images: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order='C', device='cpu', writable=False)], outputs: Sequence[Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order='C', device='cpu')]], seconds: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu')] | None = None) -> bool:
        """
        Run all steps; False when an image holds NaN or infinite values. `seconds` receives each step's time. Releases the GIL.
        """

    @property
    def steps(self) -> int: ...

    @property
    def arena_floats(self) -> int: ...
