"""A row of the table of hostile files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Files = dict[str, bytes]


class Hostile(NamedTuple):
    """Files that nobody but an attacker, or a broken disk, would write.

    Args:
        reason: what the error must say; None where the hostile part is of no use to us and is passed over: the weights
            are read, and nothing else happens.
        make: makes the files, by their names. entry: which of them is loaded; "" for their folder.
        links: symbolic links beside them, by their names. options: that `load` takes for it.
    """

    reason: str | None
    make: Callable[[], Files]
    entry: str = "m"
    links: Mapping[str, str] = {}
    options: Mapping[str, Any] = {}


def one(reason: str | None, body: Callable[[], bytes] | bytes) -> Hostile:
    """A row of a single file."""
    return Hostile(reason, lambda: {"m": body() if callable(body) else body})
