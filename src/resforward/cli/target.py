"""What a command is pointed at: the name of a network, or a checkpoint."""

from __future__ import annotations

import os
from typing import Any

from ..errors import CheckpointError, NetworkError, nearest
from ..loading import BUILT_IN, load
from ..model import Model
from ..network import Network
from ..published import NETWORKS


def named_network(name: str) -> Network | None:
    """The network of that name; None where it is a checkpoint's, the built-in one's too, or no network has it."""
    return None if name in BUILT_IN or os.path.lexists(name) else NETWORKS.get(name)


def load_checkpoint(name: str, **options: Any) -> Model:
    """Load a checkpoint; a name that looks like none is taken for a network's, misspelt.

    Raises:
        NetworkError: neither a checkpoint nor a network has that name.
        CheckpointError: of `load`.
    """
    try:
        return load(name, **options)
    except CheckpointError as error:
        if os.path.lexists(name) or os.sep in name or "." in name or name in NETWORKS:
            raise
        close = nearest(name, NETWORKS)
        raise NetworkError(
            f"no network and no checkpoint is called {name}",
            found=[close] if close else [],
            help=f"the networks are {', '.join(NETWORKS)}",
        ) from error
