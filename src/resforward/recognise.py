"""A network in a plain graph: Blocks and units by what is computed, whatever tensors are called.

The inverse of `plain_graph`: the walk goes from the images to the last tensor, unit after unit, and refuses the node at
which a graph stops being a ResNet. Norms may be there or folded away; where only some are, all of that place are
folded, so that units stay alike and one row of values, a `Family`, says what they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import CheckpointError, NetworkError
from .families import FAMILIES, Family, Norm, Pool, Stem
from .graph import Graph
from .network import INPUT_NORM, Block, Conv, Network, Unit, UnitKind, basic, bottleneck
from .preprocess import PRESETS, Preprocess
from .published import block_strides, published_layers
from .resnet import resnet, with_output_stride
from .walk import Affine, FoundNetwork, FoundUnit, Layer, Walk, product, scale_shift

Array = npt.NDArray[Any]
Weights = dict[str, npt.NDArray[np.float32]]

_KINDS: Mapping[tuple[int, ...], UnitKind] = {kind.kernels: kind for kind in (bottleneck, basic)}
_SAME = 1e-6  # relative: epsilons are stored as float32


@dataclass(frozen=True)
class Recognised:
    """What a graph computes.

    Args:
        network: its table. weights: under our names.
        evidence: one sentence for each decision, for `resforward inspect`.
    """

    network: Network
    weights: Weights
    evidence: tuple[str, ...]


def recognise(graph: Graph, source: str) -> Recognised:
    """Find the network that a plain graph computes.

    >>> from resforward import NETWORKS, build
    >>> from resforward.graph import plain_graph
    >>> network = NETWORKS["resnet_v2_50"]
    >>> found = recognise(plain_graph(network, build(network).weights), "here").network
    >>> found.family.name, found.units == network.units
    ('slim v2', True)

    Args:
        graph: of `plain_graph`, or an ONNX file's.
        source: for messages.

    Raises:
        CheckpointError: a graph that is no ResNet, with the node at which it stops being one.
    """
    # A norm and a ReLU after a convolution that no pool follows may be its own, or the first unit's: both are tried.
    with np.errstate(all="ignore"):  # what is not finite is refused with the weights
        try:
            return _Fit(Walk(graph, source).all(), source).result()
        except CheckpointError as error:
            try:
                return _Fit(Walk(graph, source, bare_stem=True).all(), source).result()
            except CheckpointError:
                raise error from None


class _Fit:
    """The table and the weights of what was found."""

    def __init__(self, found: FoundNetwork, source: str) -> None:
        self.found, self.source = found, source
        units = found.units
        last = len(units[0].layers) - 1
        kernels = tuple(layer.kernel for layer in units[0].layers)
        if kernels not in _KINDS:
            raise self.refused(
                units[0], f"its convolutions have kernels of {kernels} pixels, and units have (1, 3, 1) or (3, 3)"
            )
        self.kind = _KINDS[kernels]
        for unit in units:
            if tuple(layer.kernel for layer in unit.layers) != kernels:
                raise self.refused(unit, "its convolutions are not those of the first unit")
        inner = [layer for unit in units for layer in unit.layers[:-1]] + found.stem[:-1]
        lasts = [unit.layers[-1] for unit in units]
        projections = [unit.projection for unit in units if unit.projection]
        # Whether all layers of a place have a norm; where some do not, all of them are folded.
        self.inner_norm = all(layer.normed for layer in inner)
        self.last_norm = all(layer.normed for layer in lasts)
        self.shortcut_norm = bool(projections) and all(layer.normed for layer in projections)
        self.stem_norm = bool(found.stem) and found.stem[-1].normed
        self.bias = tuple(any(self.has_bias(unit.layers[i], self.norms[i]) for unit in units) for i in range(last + 1))
        self.shortcut_bias = any(self.has_bias(layer, self.shortcut_norm) for layer in projections)
        self.stem_bias = any(
            self.has_bias(layer, self.inner_norm if i < len(found.stem) - 1 else self.stem_norm)
            for i, layer in enumerate(found.stem)
        )
        affines = [layer.affine for layer in (*inner, *lasts, *projections, *found.stem)]
        affines += [a for a in (found.input_norm, found.postnorm, *(unit.preact for unit in units)) if a]
        self.norm: Norm = "gn" if any(affine.group for affine in affines) else "bn"
        nodes = [affine.group or affine.batch for affine in affines]
        epsilons = sorted({float(f"{node.attributes['epsilon']:.6g}") for node in nodes if node})
        self.epsilon = epsilons[0] if epsilons else 1e-5
        if self.norm == "gn" and len(epsilons) > 1:
            raise CheckpointError(f"{source} has group norms of several epsilons: {epsilons}")

    @property
    def norms(self) -> tuple[bool, ...]:
        """Of a unit's convolutions."""
        return (*(self.inner_norm,) * (len(self.kind.kernels) - 1), self.last_norm)

    def refused(self, unit: FoundUnit, why: str) -> CheckpointError:
        return CheckpointError(
            f"{self.source} is no ResNet that is known here: it stops being one at the unit that ends in node"
            f" `{unit.node.name[:80]}`",
            found=[why],
        )

    def has_bias(self, layer: Layer, normed: bool) -> bool:
        folded = not normed and (layer.affine.batch is not None or layer.affine.group is not None)
        biases = layer.node.weights.get("biases")
        return (biases is not None and bool(np.any(biases))) or layer.affine.before is not None or folded

    def result(self) -> Recognised:
        network, evidence = self.network()
        weights = self.weights(network)
        wrong = [name for name, shape in network.variables.items() if weights[name].shape != shape]
        if wrong or set(weights) != set(network.variables):
            raise CheckpointError(f"{self.source} is no ResNet that is known here", found=wrong[:3])
        return Recognised(network, weights, tuple(evidence))

    def network(self) -> tuple[Network, list[str]]:
        """The table: a family that is known if one fits, else one of its own."""
        found = self.found
        blocks = self.blocks()
        pools: list[Pool | None] = [*found.pools] or [None]
        rows = [self.row(blocks, pool) for pool in pools]
        fits = [[family for family in FAMILIES if self.fits(family, row, blocks)] for row in rows]
        row, fitting = next((each for each in zip(rows, fits, strict=True) if each[1]), (rows[0], []))
        exact = [family for family in fitting if self.is_exactly(family, row)]
        known = exact or fitting
        layers = published_layers(self.kind, [len(block.args) for block in blocks])
        norms = "" if exact or any(self.is_whole(family, row) for family in fitting) else ", norms folded"
        named = " or ".join(dict.fromkeys(family.name for family in known))
        wanted = {_pictures(family): family.preprocess for family in reversed(known)}  # of those alike, the first's
        row = replace(
            row,
            name=f"{named}{norms}" if known else "a graph of its own",
            networks=known[0].networks if known else row.networks,
            preprocess=next(iter(wanted.values())) if len(wanted) == 1 else None,
        )
        name = row.networks.format(layers=layers, width=max(blocks[0].args[0][1] // 64, 1)) if layers else ""
        network = self.made(row, blocks)
        if network is None:
            raise CheckpointError(f"{self.source} is no ResNet that is known here: its units follow no rule")
        network = replace(network, name=name or f"resnet_{row.version}")
        counts = ", ".join(str(len(block.args)) for block in blocks)
        evidence = [
            f"family {row.name}: what its nodes compute, whatever they are called",
            f"{self.kind.name} units {counts}{f', as in {name}' if name else ''}: counted in the graph",
            "strides, paddings and norms: what the graph says",
        ]
        if len(wanted) > 1:
            evidence.append("preprocessing: not known, the families that it may be of want different ones")
        if found.classifier:
            evidence.append(f"{found.classifier.depth} classes: what its last product makes")
        if found.size:
            evidence.append("images of {}x{} in the file, and of any size here".format(*found.size))
        if found.softmax:
            evidence.append("softmax at the end: `predictions` has it, logits come before")
        return network, evidence

    def blocks(self) -> list[Block]:
        """Units of one width after another are a Block; a stride begins one where it comes with a projection."""

        def width(unit: FoundUnit) -> tuple[int, int]:
            return unit.layers[-1].depth, unit.layers[0].depth

        groups: list[list[FoundUnit]] = []
        for before, unit in zip((None, *self.found.units), self.found.units, strict=False):
            ended = before is None or width(before) != width(unit) or (before.stride > 1 and not before.projection)
            if ended or (unit.stride > 1 and unit.projection):
                groups.append([])
            groups[-1].append(unit)
        return [
            Block(f"block{place}", self.kind, [(*width(unit), unit.stride) for unit in units])
            for place, units in enumerate(groups, start=1)
        ]

    def row(self, blocks: Sequence[Block], pool: Pool | None) -> Family:
        """The values that units have in common."""
        found, units = self.found, self.found.units
        strided = [unit for unit in units if unit.stride > 1]
        places = {[layer.stride > 1 for layer in unit.layers].index(True) + 1 for unit in strided}
        if len(places) > 1 or places - {1, 2}:
            raise self.refused(strided[-1], "strides are at other convolutions than in other units")
        projecting, others = [u for u in units if u.projection], [u for u in units if not u.projection]
        version = "v2" if any(unit.pre != "none" for unit in units) else "v1"
        early = any(block.args[0][2] > 1 for block in blocks[1:])
        stem = Stem(
            kernel=found.stem[0].kernel if found.stem else 7,
            stride=found.stem[0].stride if found.stem else 2,
            widths=tuple(layer.depth for layer in found.stem) or (64,),
            bias=self.stem_bias,
            norm=self.stem_norm,
            relu=bool(found.stem) and found.stem[-1].relu,
            pool=pool,
        )
        return Family(
            name="",
            version=version,
            networks=f"resnet_{version}_{{layers}}",
            stem=stem,
            stride_unit="first" if early or self.dilated else "last",
            stride_at=places.pop() if places else 2,  # type: ignore[arg-type]
            projects="width or stride",
            pre_projection=projecting[0].pre if projecting else ("both" if version == "v2" else "none"),
            pre_identity=others[0].pre if others else ("residual" if version == "v2" else "none"),
            post="relu" if units[0].relu else "none",
            bias=self.bias if len(self.bias) == 3 else (self.bias[0], False, self.bias[1]),
            norms=self.norms if len(self.norms) == 3 else (self.norms[0], True, self.norms[1]),
            shortcut_bias=self.shortcut_bias,
            shortcut_norm=self.shortcut_norm,
            final_norm=found.postnorm is not None,
            epsilon=self.epsilon,
            classes=found.classifier.depth if found.classifier else 0,
            background=None,
            preprocess=None,
            norm=self.norm,
            input_norm=found.input_norm is not None,
            projection="avg_projection" if any(u.shortcut == "avg_projection" for u in units) else "projection",
        )

    @property
    def dilated(self) -> bool:
        return any(layer.rate > 1 for unit in self.found.units for layer in unit.layers)

    def made(self, row: Family, blocks: Sequence[Block]) -> Network | None:
        """The network of a row and Blocks, if its units are those that were found."""
        for projects in dict.fromkeys((row.projects, "width", "width or stride", "first unit")):
            for nominal, output_stride in self.nominal(row, blocks):
                try:
                    network = resnet(
                        replace(row, projects=projects),
                        nominal,
                        self.found.classifier.depth if self.found.classifier else 0,
                        global_pool=self.found.global_pool,
                        include_root_block=bool(self.found.stem),
                        input_channels=self.found.input_channels,
                    )
                    network = with_output_stride(network, output_stride)
                except NetworkError:
                    continue
                if all(map(self.alike, network.units, self.found.units)):
                    return network
        return None

    def nominal(self, row: Family, blocks: Sequence[Block]) -> Iterable[tuple[Sequence[Block], int | None]]:
        """Blocks as they are, or as they were before strides were traded for dilation."""
        if not self.dilated:
            yield blocks, None
            return
        stem = row.stem.stride * (row.stem.pool.stride if row.stem.pool else 1) if self.found.stem else 1
        reached = stem * math.prod(unit.stride for unit in self.found.units)
        for family in (replace(row, stride_unit="first"), replace(row, stride_unit="last")):
            strided = [0 if family.stride_unit == "first" else len(block.args) - 1 for block in blocks]
            yield (
                [
                    Block(
                        block.scope,
                        block.unit_fn,
                        [(d, b, stride if i == at else 1) for i, (d, b, _) in enumerate(block.args)],
                    )
                    for block, stride, at in zip(blocks, block_strides(family, len(blocks)), strided, strict=True)
                ],
                reached,
            )

    def alike(self, unit: Unit, found: FoundUnit) -> bool:
        """Whether a unit of a table computes what was found, whatever its weights are."""

        def windows(layers: Iterable[Conv | Layer | None]) -> list[tuple[int, int, int]]:
            return [(layer.kernel, layer.stride, layer.rate) for layer in layers if layer]

        return (unit.depth_in, unit.stride, unit.pre, unit.shortcut, unit.post == "relu") == (
            found.depth_in, found.stride, found.pre, found.shortcut, found.relu,
        ) and windows(unit.convs) == windows(found.layers)  # fmt: skip

    def fits(self, family: Family, row: Family, blocks: Sequence[Block]) -> bool:
        """Whether a family's networks compute what was found, with norms or with these folded."""
        if self.kind.name not in family.kinds or (self.found.channels_last and not family.channels_last):
            return False
        strided = any(unit.stride > 1 for unit in self.found.units) or self.dilated
        if strided and family.stride_unit != row.stride_unit and not self.dilated:
            return False
        if strided and self.kind is bottleneck and family.stride_at != row.stride_at:
            return False
        if (family.norm, family.final_norm, family.input_norm) != (row.norm, row.final_norm, row.input_norm):
            return False
        if self.found.stem and not _same_stem(family.stem, row.stem):
            return False
        like = replace(
            row,
            projects=family.projects,
            pre_projection=family.pre_projection,
            pre_identity=family.pre_identity,
            post=family.post,
            projection=family.projection,
            version=family.version,
        )
        network = self.made(like, blocks)
        return network is not None

    def is_whole(self, family: Family, row: Family) -> bool:
        """Whether norms are where a family has them: none was folded."""
        few, projects = len(self.kind.kernels) < 3, any(unit.projection for unit in self.found.units)
        return (
            (family.norms[0], family.norms[-1]) == (row.norms[0], row.norms[-1])
            and (few or family.norms == row.norms)
            and (not projects or family.shortcut_norm == row.shortcut_norm)
            and (not self.found.stem or family.stem.norm == row.stem.norm)
        )

    def is_exactly(self, family: Family, row: Family) -> bool:
        """Whether it is whole, with its epsilon, and no bias is where the family has none."""
        biases = [*zip(family.bias, row.bias, strict=True), (family.shortcut_bias, row.shortcut_bias)]
        biases.append((family.stem.bias, row.stem.bias))
        same = math.isclose(family.epsilon, row.epsilon, rel_tol=_SAME)
        return same and self.is_whole(family, row) and all(known or not found for known, found in biases)

    def weights(self, network: Network) -> Weights:
        """Everything under our names."""
        found, weights = self.found, Weights()
        if found.input_norm:
            self.put_norm(weights, INPUT_NORM, found.input_norm)
        for conv, layer in zip(network.stem_convs, found.stem, strict=True):
            self.put(weights, conv.name, layer, conv.bias, conv.norm is not None)
        for unit, known in zip(network.units, found.units, strict=True):
            if known.preact:
                self.put_norm(weights, f"{unit.name}/preact", known.preact)
            if unit.projection and known.projection:
                self.put(weights, unit.projection.name, known.projection, self.shortcut_bias, self.shortcut_norm)
            for conv, layer in zip(unit.convs, known.layers, strict=True):
                self.put(weights, conv.name, layer, conv.bias, conv.norm is not None)
        if found.postnorm:
            self.put_norm(weights, "postnorm", found.postnorm)
        if network.logits and found.classifier:
            self.put(weights, "logits", found.classifier, True, False)
        return weights

    def put(self, weights: Weights, name: str, layer: Layer, bias: bool, normed: bool) -> None:
        kernel = layer.node.weights["weights"]
        kernel = kernel[np.newaxis, np.newaxis] if kernel.ndim == 2 else kernel
        biases = layer.node.weights.get("biases", np.zeros(kernel.shape[-1]))
        affine = layer.affine
        if affine.group and not normed:
            raise CheckpointError(f"{self.source} has group norms after some of its convolutions and not after others")
        if normed and affine.before is None:
            weights[f"{name}/weights"] = kernel
        else:
            folded = product([affine.batch]) if affine.batch and not normed else None
            for scale, shift in filter(None, (affine.before, folded)):
                kernel, biases = kernel * scale, biases * scale + shift
            weights[f"{name}/weights"] = np.ascontiguousarray(kernel, np.float32)
        if bias:
            weights[f"{name}/biases"] = np.asarray(biases, np.float32)
        if normed:
            part = "GroupNorm" if affine.group else "BatchNorm"
            self.put_norm(weights, f"{name}/{part}", replace(affine, before=None))

    def put_norm(self, weights: Weights, scope: str, affine: Affine) -> None:
        """A norm's variables, with the epsilon that the network has."""
        if affine.group:
            if affine.before is not None:
                raise CheckpointError(
                    f"{self.source} scales what a group norm makes normal, which is not computed here"
                )
            gamma, beta = (affine.group.weights[part].astype(np.float64) for part in ("gamma", "beta"))
            if affine.after is not None:
                gamma, beta = gamma * affine.after[0], beta * affine.after[0] + affine.after[1]
            parts = {"gamma": gamma, "beta": beta}
        elif affine.batch and affine.before is None:
            node = affine.batch
            parts = {part: array.astype(np.float64) for part, array in node.weights.items()}
            if not math.isclose(node.attributes["epsilon"], self.epsilon, rel_tol=_SAME):
                parts["moving_variance"] = parts["moving_variance"] + (node.attributes["epsilon"] - self.epsilon)
        else:
            scale, shift = _merged(affine)
            ones = np.ones_like(scale)
            parts = {"gamma": scale, "beta": shift, "moving_mean": 0 * ones, "moving_variance": ones - self.epsilon}
        for part, array in parts.items():
            weights[f"{scope}/{part}"] = np.asarray(array, np.float32)


def _merged(affine: Affine) -> tuple[Array, Array]:
    """Norms without a group norm as one scale and shift."""
    assert affine.before is not None
    scale, shift = affine.before
    if affine.batch:
        outer = scale_shift(affine.batch)
        scale, shift = scale * outer[0], shift * outer[0] + outer[1]
    return scale, shift


def _pictures(family: Family) -> Preprocess | None:
    """What a family's networks want to see; whether a side is rounded or cut to whole pixels is no difference."""
    row = PRESETS[family.preprocess] if family.preprocess else None
    return replace(row, geometry="shorter_side_floor") if row and row.geometry == "shorter_side_round" else row


def _same_stem(a: Stem, b: Stem) -> bool:
    """Whether root blocks lie alike and are activated alike, of whatever widths; under a ReLU, zeros hide."""

    def shape(stem: Stem) -> tuple[object, ...]:
        pool = replace(stem.pool, fill="-inf") if stem.pool and stem.relu else stem.pool
        return pool, stem.relu

    return shape(a) == shape(b)
