"""From a checkpoint's names and shapes to the network that it holds.

Nothing is asked of the file's name: families are told apart by what their variables are called, and everything else is
counted or measured. What no checkpoint stores, strides and the pool, is the family's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

from .dialects import DIALECTS, LEAVES, Dialect
from .errors import CheckpointError, NetworkError
from .families import Family, Stem
from .names import LONGEST_NAME, Tensors, without_bystanders
from .network import Block, Network, basic, bottleneck
from .published import block_strides, published_layers
from .resnet import resnet


@dataclass(frozen=True)
class Conclusion:
    """What a checkpoint holds, and from what that was concluded.

    Args:
        network: its table. scope: the prefix of its variables, "resnet_v2_50/" or "".
        evidence: one sentence for each decision, for `resforward inspect`.
        dialect: what its variables are called behind the scope.
    """

    network: Network
    scope: str
    evidence: tuple[str, ...]
    dialect: Dialect


def conclude(tensors: Tensors, source: str) -> Conclusion:
    """Infer the network from the names and shapes of a checkpoint's variables.

    >>> conclusion = conclude(read_checkpoint("resnet_v2_50.ckpt"), "resnet_v2_50.ckpt")  # doctest: +SKIP
    >>> conclusion.network.name  # doctest: +SKIP
    'resnet_v2_50'

    Args:
        tensors: of `read_checkpoint`.
        source: the file's name, for messages.

    Raises:
        CheckpointError: variables that are of no ResNet that is known, of several, or not of a whole one.
    """
    held = _held(without_bystanders(tensors), source)
    evidence = [f"family {held.family.name}: its units are called {held.example}"]
    try:
        blocks = held.blocks()
        layers = published_layers(held.kind, [len(block.args) for block in blocks])
        published = held.family.networks.format(layers=layers, width=max(blocks[0].args[0][1] // 64, 1))
        name = published if layers else f"resnet_{held.family.version}"
        evidence += [*held.about_units(published if layers else ""), held.about_classes()]
        stem, channels = held.root_block(blocks, evidence)
        network = resnet(
            held.family,
            blocks,
            held.classes,
            include_root_block=stem is not None,
            input_channels=channels,
            stem=stem,
            name=held.own_name or name,
        )
    except NetworkError as error:
        raise CheckpointError(f"{source} describes no network: {error.message}", found=error.found) from error
    return Conclusion(network, held.scope, tuple(evidence), held.dialect)


class _Found(NamedTuple):
    """A network that a checkpoint seems to hold; names: those that say so, with the Block and the unit they are of."""

    dialect: Dialect
    family: Family
    scope: str
    names: dict[str, tuple[str, int]]


def _search(tensors: Tensors) -> list[_Found]:
    """Every network that is there, in the first dialect that has words for it."""
    networks: list[_Found] = []
    taken: set[str] = set()
    for dialect in DIALECTS:
        found: dict[str, dict[str, tuple[str, int]]] = {}
        for name in tensors:
            if name not in taken and len(name) <= LONGEST_NAME and (match := dialect.marker.fullmatch(name)):
                place = dialect.block(match["block"]), dialect.unit(match["unit"])
                found.setdefault(match["scope"], {})[name] = place
        for scope, names in found.items():
            for family, needed in dialect.families:
                if all(scope + name in tensors for name in needed):
                    networks.append(_Found(dialect, family, scope, names))
                    taken |= set(names)
                    break
    return networks


def _held(tensors: Tensors, source: str) -> _Held:
    """The one network that a checkpoint holds."""
    networks = _search(tensors)
    if not networks:
        raise CheckpointError(
            f"{source} holds no network that is known here",
            found=[
                f"{len(tensors)} variables, such as {', '.join(name[:80] for name in sorted(tensors)[:3]) or 'none'}"
            ],
            help=f"a ResNet's variables are called {', or '.join(dialect.example for dialect in DIALECTS)}",
        )
    for pattern, what in networks[0].dialect.relatives.items():
        if relative := next((n for n in tensors if len(n) <= LONGEST_NAME and pattern.fullmatch(n)), None):
            raise CheckpointError(
                f"{source} has {what}; that is not read", found=[f"{relative} is one of its variables"]
            )
    if len(networks) > 1:
        raise CheckpointError(
            f"{source} holds {len(networks)} networks",
            found=[f"{h.scope or 'no scope'}: {h.family.name}, {len(h.names)} variables" for h in networks],
            help=_how_to_keep_one(networks),
        )
    return _Held(tensors, source, *networks[0])


def _how_to_keep_one(networks: Sequence[_Found]) -> str:
    """The help for a file of several; copies, such as running averages, differ in their scopes."""
    scopes = sorted(network.scope for network in networks)
    crowded = {scope for scope, following in pairwise(scopes) if following.startswith(scope)}
    torch = [network.scope for network in networks if network.dialect.axes == "OIHW" and network.scope not in crowded]
    if not torch:
        return "save one network a checkpoint"
    scope = torch[-1]
    return (
        f"keep one of them, in PyTorch: torch.save({{name.removeprefix({scope!r}): value for name, value in"
        f" torch.load(path).items() if name.startswith({scope!r})}}, other_path)"
    )


class _Held:
    """The variables of the network that a checkpoint holds, by our names."""

    def __init__(
        self,
        tensors: Tensors,
        source: str,
        dialect: Dialect,
        family: Family,
        scope: str,
        names: Mapping[str, tuple[str, int]],
    ) -> None:
        self.tensors, self.source = tensors, source
        self.dialect, self.family, self.scope = dialect, family, scope
        counts: dict[str, int] = {}
        for block, unit in names.values():
            counts[block] = max(counts.get(block, 0), unit)
        self.counts = dict(sorted(counts.items(), key=lambda item: _natural(item[0])))
        # Slim's units say what they are; the others are told apart by their third convolution.
        self.example = next(iter(names)) if dialect.inside else f"bottleneck_{family.version}"
        first = f"{next(iter(self.counts))}/unit_1/{bottleneck.name}_{family.version}"
        self.kind = bottleneck if not dialect.inside or self.has(f"{first}/conv3/weights") else basic

    @property
    def own_name(self) -> str:
        """The network's name where the checkpoint says it: slim's scope."""
        return "" if self.dialect.inside else self.scope.rstrip("/").rpartition("/")[2]

    def theirs(self, name: str) -> str:
        return self.scope + self.dialect.theirs(name)

    def has(self, name: str) -> bool:
        return self.theirs(name) in self.tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """With our axes; raises CheckpointError where the variable is missing."""
        if not self.has(name):
            raise self.incomplete(name)
        return tuple(self.dialect.array(self.tensors[self.theirs(name)]).shape)

    def incomplete(self, name: str) -> CheckpointError:
        """The error of a variable that is missing."""
        return CheckpointError(
            f"{self.source} is incomplete: {self.theirs(name)} is missing",
            found=[f"it has {', '.join(f'{block} with {count} units' for block, count in self.counts.items())}"],
            help="a shard or part of the training graph was left out when it was saved",
        )

    def kernel(self, name: str) -> tuple[int, int, int]:
        """(kernel, channels in, channels out) of a convolution; zeros for what is no kernel."""
        dims = self.shape(f"{name}/weights")
        return (dims[0], dims[2], dims[3]) if len(dims) == 4 else (0, 0, dims[-1] if dims else 0)

    def blocks(self) -> list[Block]:
        """Units counted in names, depths measured in shapes, strides where the family has them."""
        if self.dialect.inside:  # they are numbered, and none between two others may be missing
            for place in range(1, len(self.counts) + 1):
                self.unit(f"block{place}", 1)
        blocks = []
        strides = block_strides(self.family, len(self.counts))
        for (block, count), stride in zip(self.counts.items(), strides, strict=True):
            if count > len(self.tensors):
                raise CheckpointError(
                    f"{self.source}: {self.scope}{block} has units up to unit_{count} in {len(self.tensors)} variables"
                )
            strided = count if self.family.stride_unit == "last" else 1
            args = [(*self.unit(block, unit), stride if unit == strided else 1) for unit in range(1, count + 1)]
            blocks.append(Block(block, self.kind, args))
        return blocks

    def unit(self, block: str, unit: int) -> tuple[int, int]:
        """(depth, depth_bottleneck)."""
        prefix = f"{block}/unit_{unit}/{self.kind.name}_{self.family.version}"
        *_, depth_bottleneck = self.kernel(f"{prefix}/conv1")
        *_, depth = self.kernel(f"{prefix}/conv{len(self.kind.kernels)}")
        if not self.dialect.inside:
            return depth, depth_bottleneck
        axes = self.shape(f"{prefix}/conv2/weights")
        if axes[:2] != (3, 3) and axes[2:] == (3, 3):
            raise CheckpointError(
                f"{self.source} has the axes of Theano: its kernels are turned, and mirrored",
                found=[f"{self.theirs(f'{prefix}/conv2/weights')} has shape {axes}, expected height and width first"],
                help="pass the file for TensorFlow's axes; Keras has one of each, `th` and `tf` in their names",
            )
        if 0 < (depth_in := self.kernel(f"{prefix}/conv2")[1]) < depth_bottleneck:
            raise CheckpointError(
                f"{self.source} has grouped convolutions, as ResNeXt has; they are not computed here",
                found=[f"{self.theirs(f'{prefix}/conv2/weights')} reads {depth_in} of {depth_bottleneck} channels"],
            )
        return depth, depth_bottleneck

    def about_units(self, published: str) -> list[str]:
        """The evidence for units and strides."""
        family = self.family
        kind = f"{self.kind.name} units {', '.join(map(str, self.counts.values()))}"
        known = f", as in {published}" if published else ""
        return [
            f"{kind}{known}: counted in the variables' names",
            f"strides: those of {family.name}, the {family.stride_unit} unit of every Block but the"
            f" {family.stride_unit} has 2 (no checkpoint stores them)",
        ]

    @property
    def classes_name(self) -> str | None:
        return next((name for name in ("logits/biases", "logits/weights") if self.has(name)), None)

    @property
    def classes(self) -> int:
        return (self.shape(self.classes_name) or (0,))[-1] if self.classes_name else 0

    def about_classes(self) -> str:
        """The evidence for the classifier."""
        if not self.classes_name:
            return "no classifier: no variable of it"
        return f"{self.classes} classes: the length of {self.theirs(self.classes_name)}"

    def root_block(self, blocks: list[Block], evidence: list[str]) -> tuple[Stem | None, int]:
        """The root block, if there is one, and the channels of the images."""
        stem = self.family.stem
        if self.has("conv1/conv1/weights"):
            convs = [self.kernel("conv1/conv1")]
            while self.has(f"conv1/conv{len(convs) + 1}/weights"):
                convs.append(self.kernel(f"conv1/conv{len(convs) + 1}"))
            evidence.append(f"a root block of {len(convs)} convolutions: counted in the variables' names")
            kernel, channels, _ = convs[0]
            return replace(stem, kernel=kernel, widths=tuple(width for *_, width in convs)), channels
        if not self.has("conv1/weights"):
            scopes = [
                scope for scope in self.dialect.outside or ("conv1", "conv1/BatchNorm") if scope.startswith("conv1")
            ]
            if any(self.has(f"{scope}/{leaf}") for scope in scopes for leaf in LEAVES):
                raise self.incomplete("conv1/weights")
            evidence.append(f"no root block: no {self.theirs('conv1/weights')}")
            return None, self.kernel(f"{blocks[0].scope}/unit_1/{self.kind.name}_{self.family.version}/conv1")[1]
        kernel, channels, width = self.kernel("conv1")
        if kernel == 3:
            evidence.append(
                f"root block 3x3 with stride 1 and no pool: assumed for a 3x3 {self.theirs('conv1/weights')}"
            )
            return replace(stem, kernel=3, stride=1, widths=(width,), pool=None), channels
        return replace(stem, widths=(width,)), channels


def _natural(name: str) -> tuple[Any, ...]:
    """block2 before block10; on ties and other names, the alphabet."""
    # Digits as text: longer is larger once leading zeros are gone, and no file makes us convert a million of them.
    parts = re.split(r"([0-9]+)", name)
    return tuple((0, len(n := part.lstrip("0")), n) if i % 2 else (1, 0, part) for i, part in enumerate(parts) if part)
