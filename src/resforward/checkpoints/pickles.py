"""Pickles as data: a machine of our own for the opcodes that files of weights use; it imports and calls nothing.

A pickle is a program for a stack machine (CPython: Lib/pickletools.py describes every opcode). Those that only build
numbers, strings and containers are followed. A global is looked up by its name in a table of ours, never imported; what
a pickle calls is one of our functions that the table has for it. Any other name or opcode is refused.

What it costs follows from the bytes that were read: an opcode makes at most one small object, nothing is ever repeated,
and no value of the file is hashed, compared, or walked through: a dict is a list of pairs.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from resforward.checkpoints.files import File
from resforward.errors import CheckpointError

_MAX_NAME = 256
_MAX_STACK = 1 << 16  # a tuple is built from the stack in one piece; lists and dicts come in batches of 1000
_MAX_MARKS = 256
_BYTES_A_CHARACTER = 4  # one that is outside of the BMP makes Python store all of a string so
_CUT = "a pickle is cut short"


@dataclass(slots=True)
class Pairs:
    """A dict as a pickle writes it: keys and values in order, neither hashed, unique nor looked at."""

    items: list[Any] = field(default_factory=list)


class Made:
    """A value that one of our functions made; the attributes that a file gives it are dropped."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Unread(Made):
    """A value that is not ours to understand; what a file puts into it is dropped."""

    what: str


@dataclass(frozen=True, slots=True)
class Maker:
    """What stands for a callable: our function from a call's arguments to a value; ValueError for others."""

    make: Callable[[tuple[Any, ...]], Any]


def load(
    file: File, data: memoryview, at: int, names: Mapping[str, Any], persistent: Callable[[Any], Any]
) -> tuple[Any, int]:
    """Follow one pickle; return its value, and where it ends.

    >>> import pickle
    >>> from resforward.checkpoints.files import Budget
    >>> data = memoryview(pickle.dumps({"epoch": 3}, 2))
    >>> load(File("x.pth", data, Budget()), data, 0, {}, lambda id: Unread("storage"))
    (Pairs(items=[('epoch', 3)]), 21)
    >>> data = memoryview(b"cposix\\nsystem\\n(X\\x02\\0\\0\\0lstR.")
    >>> load(File("x.pth", data, Budget()), data, 0, {}, lambda id: Unread("storage"))
    Traceback (most recent call last):
    resforward.errors.CheckpointError: refused `x.pth`: it holds code, `posix.system`; nothing was executed
    help: if you trust it, load it in PyTorch and save only the weights: torch.save(model.state_dict(), path)

    Args:
        data: bytes of the file that hold the pickle.
        at: where in `data` it begins.
        names: what stands for each global that may be named: a Maker if it may be called, any other value if not.
        persistent: our function from a persistent id to a value; ValueError for others.

    Raises:
        CheckpointError: the pickle names or does anything else, is damaged, or costs more than the budget.
    """
    machine = _Machine(file, data, at, names, persistent)
    while True:
        file.budget.take_steps(1, f"`{file.name}`")
        opcode = machine.take(1)[0]
        if opcode == _STOP:
            value = machine.pop()
            if machine.stack or machine.below:
                raise machine.wrong("a pickle ends with more than one value")
            return value, machine.at
        if opcode in _CONSTANTS:
            machine.push(_CONSTANTS[opcode])
        elif opcode in _ACTIONS:
            _ACTIONS[opcode](machine)
        else:
            raise _unknown(opcode, machine)


class _Machine:
    """The stack, what lies below each mark, and the memo."""

    def __init__(
        self, file: File, data: memoryview, at: int, names: Mapping[str, Any], persistent: Callable[[Any], Any]
    ) -> None:
        self.file = file
        self.data = data
        self.at = at
        self.names = names
        self.persistent = persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def wrong(self, what: str, *found: str) -> CheckpointError:
        return self.file.damaged(f"{what}, at byte {self.at} of its {len(self.data)}", *found)

    def take(self, size: int) -> memoryview:
        """Return the next bytes."""
        if size > len(self.data) - self.at:
            raise self.wrong(_CUT, f"{size} bytes are wanted, {len(self.data) - self.at} are left")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def line(self) -> str:
        """Return a module or a name, which ends in a newline."""
        ahead = bytes(self.data[self.at : self.at + _MAX_NAME])
        size = ahead.find(b"\n")
        if size < 0:
            raise self.wrong(f"a name of more than {len(ahead)} bytes")
        self.at += size + 1
        return self.decoded(ahead[:size])

    def text(self, size: int) -> str:
        data = self.take(size)
        self.file.budget.take_bytes(size * _BYTES_A_CHARACTER, f"`{self.file.name}`: a string")
        return self.decoded(data)

    def binary(self, size: int) -> bytes:
        data = self.take(size)
        self.file.budget.take_bytes(size, f"`{self.file.name}`: a byte string")
        return bytes(data)

    def decoded(self, data: bytes | memoryview) -> str:
        try:
            return str(data, "utf-8", "surrogatepass")  # as pickle writes surrogates
        except UnicodeDecodeError as error:
            raise self.wrong("a string is not UTF-8") from error

    def push(self, value: Any) -> None:
        if len(self.stack) >= _MAX_STACK:
            raise self.wrong(f"a pickle with more than {_MAX_STACK} values on its stack")
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            raise self.wrong("a pickle takes more from its stack than there is")
        return self.stack.pop()

    def mark(self) -> None:
        if len(self.below) >= _MAX_MARKS:
            raise self.wrong(f"a pickle nested more than {_MAX_MARKS} deep")
        self.below.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        """Return all that was pushed since the last mark."""
        if not self.below:
            raise self.wrong("a pickle asks for a mark that is not there")
        values, self.stack = self.stack, self.below.pop()
        return values

    def pop_several(self, count: int) -> tuple[Any, ...]:
        return tuple([self.pop() for _ in range(count)][::-1])

    def add(self, values: list[Any], in_pairs: bool) -> None:
        """Put values into the container on top, which must take them."""
        container = self.pop()
        if isinstance(container, Pairs) and in_pairs and len(values) % 2 == 0:
            container.items += zip(values[::2], values[1::2], strict=True)
        elif type(container) is list and not in_pairs:
            container += values
        elif not isinstance(container, Unread):
            raise self.wrong(f"a pickle puts {len(values)} values into {describe(container)}")
        self.push(container)

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise self.wrong(f"a pickle asks for value {index}, and remembers {len(self.memo)}")
        self.push(self.memo[index])

    def put(self, index: int) -> None:
        # Python 3 counts from 0, Python 2 from 1. Indices out of turn are no pickler's.
        if index in self.memo or index > len(self.memo) + 1:
            raise self.wrong(f"a pickle remembers value {index}, out of turn", f"{len(self.memo)} are remembered")
        value = self.pop()
        self.memo[index] = value
        self.push(value)

    def name(self, module: Any, name: Any) -> None:
        """Push what stands for a global."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise self.wrong(f"a pickle names {describe(name)} in {describe(module)}")
        path = f"{_RENAMED.get(module, module)}.{name}"
        if path not in self.names:
            raise CheckpointError(
                f"refused `{self.file.name}`: it holds code, `{path[:_MAX_NAME]}`; nothing was executed",
                help="if you trust it, load it in PyTorch and save only the weights: "
                "torch.save(model.state_dict(), path)",
            )
        self.push(self.names[path])

    def call(self) -> None:
        """Push what our function for the callable below makes of the arguments on top."""
        arguments, callee = self.pop(), self.pop()
        if not isinstance(callee, Maker) or type(arguments) is not tuple:
            raise self.wrong(f"a pickle calls {describe(callee)} with {describe(arguments)}")
        self.push(self.made(callee.make, arguments))

    def made(self, make: Callable[[Any], Any], argument: Any) -> Any:
        try:
            return make(argument)
        except ValueError as error:
            raise self.wrong("a pickle with a call that PyTorch does not write", f"{error}") from error

    def build(self) -> None:
        """Drop what would become attributes: `_metadata` of a state dict, hooks of a parameter."""
        self.pop()
        value = self.pop()
        if not isinstance(value, (Pairs, Made)):
            raise self.wrong(f"a pickle gives attributes to {describe(value)}")
        self.push(value)


def describe(value: Any) -> str:
    """Name the kind of a value, for messages: never the value itself, which may be endless.

    >>> describe(Pairs()), describe(Unread("torch.device")), describe(3)
    ('a dict', 'torch.device', 'an int')
    """
    if isinstance(value, Unread):
        return value.what
    kind = {Pairs: "dict", Maker: "function", type(None): "None"}.get(type(value), type(value).__name__.lower())
    return kind if value is None else f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _unknown(opcode: int, machine: _Machine) -> CheckpointError:
    """Name an opcode that is not followed, and the code that it would have reached."""
    import pickletools  # only for the words of an error

    known = {ord(each.code): each for each in pickletools.opcodes}.get(opcode)
    if known is None:
        return machine.wrong(f"a pickle with an opcode {opcode:#04x}")
    if known.name == "INST":
        machine.name(machine.line(), machine.line())
    return CheckpointError(
        f"refused `{machine.file.name}`: its pickle has the opcode {known.name}, which no file of weights needs",
        found=[f"at byte {machine.at - 1} of {len(machine.data)}; nothing was executed"],
        help="if you trust it, load it in PyTorch and save only the weights: torch.save(model.state_dict(), path)",
    )


def _decimal(machine: _Machine) -> None:
    line = machine.line()
    if not _DECIMAL.fullmatch(line):
        raise machine.wrong("a pickle with a number that is none", f"{line[:80]!r}")
    machine.push(int(line))


def _float(machine: _Machine) -> None:
    machine.push(struct.unpack(">d", machine.take(8))[0])


def _tuple(machine: _Machine) -> None:
    values = tuple(machine.pop_mark())
    machine.push(values)


def _global(machine: _Machine) -> None:
    module = machine.line()
    machine.name(module, machine.line())


def _stack_global(machine: _Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.name(module, name)


def _set_item(machine: _Machine) -> None:
    machine.add(list(machine.pop_several(2)), in_pairs=True)


def _frozen_set(machine: _Machine) -> None:
    machine.pop_mark()
    machine.push(Unread("a set"))


_RENAMED = {"__builtin__": "builtins"}  # as protocol 2, which Python 2 could read, spells it
_STOP = ord(".")
_DECIMAL = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_CONSTANTS: dict[int, Any] = {ord("N"): None, 0x88: True, 0x89: False, ord(")"): ()}
_ACTIONS: dict[int, Callable[[_Machine], object]] = {
    0x80: lambda m: m.take(1),  # PROTO: the opcodes say themselves which protocol they are of
    0x95: lambda m: m.take(8),  # FRAME: the size of what is read ahead
    ord("K"): lambda m: m.push(m.number(1)),
    ord("M"): lambda m: m.push(m.number(2)),
    ord("J"): lambda m: m.push(m.number(4, signed=True)),
    ord("I"): _decimal,  # Python 2 has numbers of more than 31 bits so, such as the keys of storages
    0x8A: lambda m: m.push(m.number(m.number(1), signed=True)),  # LONG1; LONG4 holds numbers that nobody needs
    ord("G"): _float,
    ord("U"): lambda m: m.push(m.text(m.number(1))),  # Python 2's str: names are ASCII
    ord("T"): lambda m: m.push(m.text(m.number(4))),
    ord("X"): lambda m: m.push(m.text(m.number(4))),
    0x8C: lambda m: m.push(m.text(m.number(1))),
    0x8D: lambda m: m.push(m.text(m.number(8))),
    ord("C"): lambda m: m.push(m.binary(m.number(1))),
    ord("B"): lambda m: m.push(m.binary(m.number(4))),
    0x8E: lambda m: m.push(m.binary(m.number(8))),
    0x96: lambda m: m.push(m.binary(m.number(8))),
    ord("]"): lambda m: m.push([]),
    ord("}"): lambda m: m.push(Pairs()),
    0x8F: lambda m: m.push(Unread("a set")),
    ord("("): _Machine.mark,
    ord("t"): _tuple,
    0x85: lambda m: m.push(m.pop_several(1)),
    0x86: lambda m: m.push(m.pop_several(2)),
    0x87: lambda m: m.push(m.pop_several(3)),
    0x91: _frozen_set,
    ord("0"): _Machine.pop,
    ord("1"): _Machine.pop_mark,
    ord("a"): lambda m: m.add([m.pop()], in_pairs=False),
    ord("e"): lambda m: m.add(m.pop_mark(), in_pairs=False),
    0x90: lambda m: m.add(m.pop_mark(), in_pairs=False),
    ord("s"): _set_item,
    ord("u"): lambda m: m.add(m.pop_mark(), in_pairs=True),
    ord("q"): lambda m: m.put(m.number(1)),
    ord("r"): lambda m: m.put(m.number(4)),
    0x94: lambda m: m.put(len(m.memo)),
    ord("h"): lambda m: m.get(m.number(1)),
    ord("j"): lambda m: m.get(m.number(4)),
    ord("c"): _global,
    0x93: _stack_global,
    ord("R"): _Machine.call,
    0x81: _Machine.call,  # NEWOBJ: a class's __new__, which is a call to us
    ord("b"): _Machine.build,
    ord("Q"): lambda m: m.push(m.made(m.persistent, m.pop())),
}
