"""What a command is pointed at: the name of a network, or a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import CheckpointError, NetworkError, nearest
from ..loading import BUILT_IN, load
from ..model import Model
from ..network import Network
from ..published import NETWORKS
from ..weights import WEIGHTS


def named_network(name: str) -> Network | None:
    """The network of that name; None where it is a checkpoint's, the built-in one's too, or no network has it."""
    return None if name in BUILT_IN or os.path.lexists(name) else NETWORKS.get(name)


def refuse_network(name: str, command: str) -> None:
    """Refuse the name of a network where weights are wanted.

    Raises:
        NetworkError: it is one.
    """
    if named_network(name):
        raise NetworkError(
            f"{name} is a network without weights; {command} wants a checkpoint",
            help=f"`resforward pull {name}` downloads one" if name in WEIGHTS else "pass a file or a folder",
        )


def load_checkpoint(name: str, **options: Any) -> Model:
    """Load a checkpoint, or say what the name may have meant, as `misspelt` does."""
    with misspelt(name):
        return load(name, **options)


@contextmanager
def misspelt(name: str) -> Iterator[None]:
    """Take a name that looks like no checkpoint's for a network's, misspelt, where nothing has it.

    Raises:
        NetworkError: neither a checkpoint nor a network has that name.
        CheckpointError: what is raised in the block, for any other name.
    """
    try:
        yield
    except CheckpointError as error:
        if not name or os.path.lexists(name) or os.sep in name or "." in name or name in NETWORKS:
            raise
        close = "" if name in WEIGHTS else nearest(name, NETWORKS)
        known = f"a checkpoint is a file, a folder or hf://owner/name; the networks are {', '.join(NETWORKS)}"
        raise NetworkError(
            f"no network and no checkpoint is called {name}",
            found=[close] if close else [],
            help=f"`resforward pull {name}` downloads one" if name in WEIGHTS else known,
        ) from error
