"""Every error that resforward raises on purpose.

ResforwardError
├── CheckpointError      a file that is damaged, refused, or does not hold the network asked for (also ValueError)
├── NetworkError         a table that describes no network, or an option that the network cannot take (also ValueError)
├── InputError           an array that is not a batch this network can take (also ValueError)
├── ImageError           a file, or bytes, that is not a picture we can read (also ValueError)
├── EndPointError        a name that is no end point of this network (also KeyError)
├── TargetError          a file that is not to be written (also ValueError)
└── UnsupportedIsaError  an instruction set that this machine or this build does not have (also RuntimeError)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_COMPARED = 10_000_000  # pairs of characters, some 0.2 s: a file may hold thousands of long names; ResNet-152's take 4M
_LISTED = 8  # details printed before "and N more": a screen, not a wall


class ResforwardError(Exception):
    """What is wrong, what was found, and what helps.

    >>> raise ResforwardError("no such thing", found=["a", "b"], help="make one")
    Traceback (most recent call last):
    resforward.errors.ResforwardError: no such thing
      - a
      - b
    help: make one

    Args:
        message: one sentence, lower case, without a final full stop.
        found: the particulars, one a line; all of them, so that one run shows every misfit.
        help: what the reader can do.
    """

    def __init__(self, message: str, *, found: Sequence[str] = (), help: str | None = None) -> None:
        self.message = message
        self.found = tuple(found)
        self.help = help
        super().__init__(message)

    def __str__(self) -> str:
        lines = [self.message]
        lines += [f"  - {line}" for line in self.found[:_LISTED]]
        if len(self.found) > _LISTED:
            lines.append(f"  - and {len(self.found) - _LISTED} more")
        if self.help:
            lines.append(f"help: {self.help}")
        return "\n".join(lines)


class CheckpointError(ResforwardError, ValueError):
    """A file that is damaged, refused, or does not hold the network asked for."""


class NetworkError(ResforwardError, ValueError):
    """A table that describes no network, or an option that the network cannot take."""


class InputError(ResforwardError, ValueError):
    """An array that is not a batch this network can take."""


class ImageError(ResforwardError, ValueError):
    """A file, or bytes, that is not a picture we can read."""


class EndPointError(ResforwardError, KeyError):
    """A name that is no end point of this network."""


class TargetError(ResforwardError, ValueError):
    """A file that is not to be written: its ending stands for no format, or something has its name already."""


class UnsupportedIsaError(ResforwardError, RuntimeError):
    """An instruction set that this machine or this build does not have."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Name the closest known spellings, as the last words of a help line; empty when nothing is close.

    >>> nearest("block3/unit6", ["block3/unit_6", "logits"])
    'the nearest is `block3/unit_6`'

    Capitals count as the small letters, and of names that differ in them alone the first is meant.
    """
    import difflib  # slow to import, and rarely wanted

    compared: dict[str, str] = {}
    left = _COMPARED // max(len(name), 1)
    for each in known:
        left -= len(each)
        if left < 0:
            break
        compared.setdefault(each.casefold(), each)
    close = [compared[key] for key in difflib.get_close_matches(name.casefold(), compared, n=3, cutoff=0.6)]
    if not close:
        return ""
    verb = "the nearest is" if len(close) == 1 else "the nearest are"
    return f"{verb} {', '.join(f'`{c}`' for c in close)}"
