"""What every command says and how: data on stdout, talk on stderr, colours only where a terminal wants them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Container, Sequence
from typing import Any, TypeVar

import click

from ..errors import CheckpointError, EndPointError, ImageError, NetworkError, ResforwardError, TargetError

INTERRUPTED = 130
USAGE = 2
SOME_FAILED = 3
REFUSED = 4

_EXIT_CODES = {
    NetworkError: USAGE,
    EndPointError: USAGE,
    TargetError: USAGE,
    ImageError: SOME_FAILED,
    CheckpointError: REFUSED,
}
_STYLES: dict[str, dict[str, Any]] = {
    "title": {"bold": True},
    "quiet": {"dim": True},
    "bad": {"fg": "red", "bold": True},
    "help": {"fg": "cyan"},
}
_DEBUG = "resforward.debug"

Command = TypeVar("Command", bound=Callable[..., Any])


def paint(text: str, style: str) -> str:
    """Colour a text; `click.echo` takes the colour away again where there is no terminal, or NO_COLOR is set."""
    return click.style(text, **_STYLES[style])


def wants_color() -> bool | None:
    """False where colours are unwanted (https://no-color.org), None where the terminal decides."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None


def out(text: str = "") -> None:
    """Write a line of data."""
    click.echo(text)


def out_json(value: Any, *, indent: int | None = None) -> None:
    """Write JSON: in ASCII, which any stream can carry; a path that is not UTF-8 as Python's lone surrogates."""
    import json

    click.echo(json.dumps(value, indent=indent, allow_nan=False))


def say(text: str) -> None:
    """Write a line of talk; a stderr that cannot be written must not cost the answer."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True, color=wants_color())


def say_error(message: str, found: tuple[str, ...] = (), help: str | None = None) -> None:
    """Write an error as `ResforwardError` words it."""
    lines = str(ResforwardError(message, found=found)).split("\n")
    say("\n".join([f"{paint('error:', 'bad')} {printable(lines[0])}", *map(printable, lines[1:])]))
    if help:
        say(f"{paint('help:', 'help')} {printable(help)}")


def printable(text: str) -> str:
    """Escape what a terminal would obey or could not show: a file may be called anything.

    >>> printable("a\\nb\\x1b[2J.png")
    'a\\\\nb\\\\x1b[2J.png'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class CommandError(Exception):
    """The end of a command: what is said on stderr, and the exit code."""

    def __init__(self, error: ResforwardError, code: int = 1, *, debug: bool = False) -> None:
        self.error = error
        self.code = code
        self.debug = debug

    def show(self) -> None:
        """Say it."""
        if self.debug:
            import traceback

            traceback.print_exception(self.__cause__)
        say_error(self.error.message, self.error.found, self.error.help)


class InterruptError(Exception):
    """Ctrl-C."""


def failure(error: ResforwardError, ctx: click.Context) -> CommandError:
    """What an error of ours means for the exit code."""
    code = next((code for kind, code in _EXIT_CODES.items() if isinstance(error, kind)), 1)
    return CommandError(error, code, debug=bool(ctx.meta.get(_DEBUG) or os.environ.get("RESFORWARD_DEBUG")))


def debug_option(command: Command) -> Command:
    """Give a command `--debug`."""

    def remember(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        ctx.meta[_DEBUG] = value

    text = "Show where in the program an error came from; so does RESFORWARD_DEBUG=1."
    return click.option("--debug", is_flag=True, expose_value=False, callback=remember, help=text)(command)


def threads_option(command: Command) -> Command:
    """Give a command `--threads`."""
    text = "Threads of the forward pass. [default: RESFORWARD_THREADS, or all that this process may use]"
    return click.option("--threads", type=click.IntRange(1, 1024), metavar="N", help=text)(command)


def winograd_option(command: Command) -> Command:
    """Give a command `--no-winograd`."""
    text = "Compute every convolution directly: slower, with half the rounding errors."
    return click.option("--no-winograd", "winograd", flag_value=False, default=True, help=text)(command)


def external_data_option(command: Command) -> Command:
    """Give a command `--external-data`."""
    text = "Read the tensors that an .onnx file keeps in other files of its folder."
    return click.option("--external-data", is_flag=True, help=text)(command)


def size_option(help: str) -> Callable[[Command], Command]:
    """Give a command `--size`, 224 or 224x320, as (height, width)."""

    def parse(ctx: click.Context, _: click.Parameter, value: str | None) -> tuple[int, int] | None:
        if value is None:
            return None
        sides = value.lower().split("x")
        if len(sides) > 2 or not all(side.isdecimal() and 1 <= int(side) <= 16_384 for side in sides):
            raise click.BadParameter(f"{value!r} is no size: give 224, or 224x320 for height x width")
        return int(sides[0]), int(sides[-1])

    return click.option("--size", metavar="N or HxW", callback=parse, help=help)


def in_words(threads: int) -> str:
    """A number of threads."""
    return f"{threads} thread{'s' if threads > 1 else ''}"


def count(number: float) -> str:
    """A large number in three digits and a letter.

    >>> [count(n) for n in (0, 640, 9536, 25615849, 13e6, 999.9e6)]
    ['0', '640', '9.54 k', '25.6 M', '13.0 M', '1.00 G']
    """
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * limit:
            scaled = number / limit
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f} {letter}"
    return f"{number:g}"


def facts(rows: list[tuple[str, str]]) -> None:
    """Write names and values in two columns, the second wrapped on a terminal; a row may continue the one before."""
    import shutil
    import textwrap

    margin = max(len(name) for name, _ in rows) + 2
    room = shutil.get_terminal_size().columns - margin if sys.stdout.isatty() else 10_000
    for name, value in rows:
        first, *more = textwrap.wrap(value, max(room, 20), break_long_words=False) or [""]
        out(f"{paint(name.ljust(margin), 'quiet')}{first}")
        for line in more:
            out(" " * margin + line)


def columns(rows: Sequence[Sequence[str]], bold: Container[str] = (), right: int = 2, last: int = 0) -> None:
    """Write a table whose first row is its head; empty columns are left out.

    Args:
        rows: of cells. bold: the first cells of rows that stand out.
        right: columns of numbers. last: columns of text behind them.
    """
    text = len(rows[0]) - right - last
    kept = [
        (text <= place < text + right, column) for place, column in enumerate(zip(*rows, strict=True)) if any(column)
    ]
    padded = []
    for number, column in kept:
        width = max(map(len, column))
        padded.append([cell.rjust(width) if number else cell.ljust(width) for cell in column])
    for place, (cells, row) in enumerate(zip(zip(*padded, strict=True), rows, strict=True)):
        line = "  ".join(cells).rstrip()
        out(paint(line, "quiet") if place == 0 else paint(line, "title") if row[0] in bold else line)
