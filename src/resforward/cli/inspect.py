"""`resforward inspect`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from .console import (
    REFUSED,
    columns,
    count,
    debug_option,
    external_data_option,
    facts,
    out,
    out_json,
    paint,
    printable,
    size_option,
)

if TYPE_CHECKING:
    from ..checkpoints import Checkpoint
    from ..model import Model
    from ..network import EndPoint, Network, Unit
    from ..preprocess import Preprocess


@click.command()
@click.argument("target", metavar="NETWORK or CHECKPOINT", type=click.Path(readable=False))
@size_option("Of the image. [default: what its preprocessing makes]")
@click.option(
    "--output-stride", type=click.IntRange(1), metavar="N", help="Pixels of the image for one of the last Block's."
)
@click.option("--all", "unfold", is_flag=True, help="A line for every unit, however many are alike.")
@click.option("--end-points", "list_end_points", is_flag=True, help="Every named tensor, with its shape, instead.")
@click.option(
    "--check-tensors", is_flag=True, help="Look for NaN, infinity and negative variances in a checkpoint, instead."
)
@external_data_option
@click.option("--json", "as_json", is_flag=True, help="One document.")
@debug_option
def command(
    target: str,
    size: tuple[int, int] | None,
    output_stride: int | None,
    unfold: bool,
    list_end_points: bool,
    check_tensors: bool,
    external_data: bool,
    as_json: bool,
) -> int:
    """Show a network or a checkpoint as a table.

    A unit is its triple (depth, depth_bottleneck, stride). MACs are multiply-adds for one image; those of a Block,
    and of several units in one line, are sums.

    \b
    resforward inspect resnet_v2_152
    resforward inspect resnet_v2_50 --output-stride 16 --size 513
    resforward inspect resnet_v2_50.ckpt --check-tensors

    Keys of --json: network, family, classes, parameters, macs, image, output_stride, blocks (name, shape, macs,
    parameters, units), end_points (name, aliases, shape, macs, parameters), preprocess, checkpoint (path, format,
    bytes, evidence, unused; null for a network). With --check-tensors: path, tensors, damaged.
    """
    from .target import named_network, refuse_network

    network = named_network(target)
    if check_tensors:
        refuse_network(target, "--check-tensors")
        return _check_tensors(target, as_json, external_data)
    subject = (
        _of_network(network, output_stride)
        if network
        else _of_checkpoint(target, output_stride=output_stride, external_data=external_data)
    )
    height, width = size or (subject.preprocess.size if subject.preprocess else (224, 224))
    if as_json:
        out_json(_document(subject, height, width), indent=2)
        return 0
    points = subject.network.end_points(height, width)
    _print_head(subject, height, width)
    out()
    if list_end_points:
        _print_end_points(subject.network, points)
    else:
        _print_table(subject.network, points, height, width, unfold)
    return 0


@dataclass(frozen=True)
class _Subject:
    """A network, and where it came from a checkpoint, what is known of that."""

    network: Network
    preprocess: Preprocess | None
    path: str | None = None
    format: str = ""
    bytes: int | None = None
    evidence: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


def _of_network(network: Network, output_stride: int | None) -> _Subject:
    from ..loading import belongings
    from ..resnet import with_output_stride

    return _Subject(with_output_stride(network, output_stride), belongings(network)["preprocess"])


def _of_checkpoint(path: str, **options: Any) -> _Subject:
    from .target import load_checkpoint

    model: Model = load_checkpoint(path, **options)
    first, *evidence = model.evidence
    return _Subject(
        model.network,
        model.preprocess,
        path,
        first.removeprefix("format ").partition(":")[0],
        _bytes(path),
        tuple(evidence),
        model.unused,
    )


def _bytes(path: str) -> int | None:
    """Of a file, of the files in a folder, or of an index and its data; None where a prefix means other files."""
    from ..hub import local_path
    from ..loading import checkpoint_path

    file = Path(local_path(checkpoint_path(path), offline=True))
    if file.is_dir():
        parts = [child for child in file.iterdir() if child.is_file()]
    else:
        prefix, _ = _bundle(file.name)
        parts = [child for child in file.parent.iterdir() if _bundle(child.name) == (prefix, True)]
        parts = parts or [file] * file.is_file()
    return sum(part.stat().st_size for part in parts) or None


def _bundle(name: str) -> tuple[str, bool]:
    """The prefix of a bundle's file, and True; any other name, and False."""
    from ..checkpoints.tf_bundle import DATA_FILE

    data_file = DATA_FILE.fullmatch(name)
    prefix = data_file["prefix"] if data_file else name.removesuffix(".index")
    return prefix, prefix != name


def _print_head(subject: _Subject, height: int, width: int) -> None:
    network = subject.network
    classes = f"{network.num_classes} classes" if network.num_classes else "no classifier"
    dense = f", output stride {network.output_stride}" if network.output_stride else ""
    out(f"{paint(printable(network.name), 'title')}  {network.family.name}, {classes}{dense}")
    macs = count(network.macs(height, width))
    rows = [("costs", f"{network.parameters:,} parameters; {macs} multiply-adds for an image of {height}x{width}")]
    if subject.path is not None:
        size = f", {subject.bytes / 1e6:,.1f} MB" if subject.bytes else ""
        rows.append(("file", f"{printable(subject.path)}: {subject.format}{size}"))
        rows += [("concluded" if place == 0 else "", printable(line)) for place, line in enumerate(subject.evidence)]
    rows.append(("pictures", subject.preprocess.describe() if subject.preprocess else "preprocessing is not known"))
    rows += [("unused" if place == 0 else "", printable(name)) for place, name in enumerate(subject.unused)]
    facts(rows)


class Row(NamedTuple):
    """A line of the table."""

    name: str
    triple: str = ""
    rate: str = ""
    shortcut: str = ""
    output: str = ""
    parameters: str = ""
    macs: str = ""


def _print_table(network: Network, points: Mapping[str, EndPoint], height: int, width: int, unfold: bool) -> None:
    rows = [Row("", "unit", "rate", "shortcut", "output", "params", "MACs")]
    rows.append(Row("image", output=f"{height}x{width}x{network.input_channels}"))
    for conv in network.stem_convs:
        rows.append(_row(points[conv.name], triple=f"{conv.kernel}x{conv.kernel}, {conv.depth}, {conv.stride}"))
    if network.stem and (pool := network.stem.pool):
        rows.append(_row(points["pool1"], triple=f"max {pool.kernel}x{pool.kernel}, {pool.stride}"))
    for block, units in network.blocks.items():
        rows.append(_row(points[block]))
        rows += _unit_rows(units, points, unfold)
    rows += [_row(points[name]) for name in ("postnorm", "global_pool", "logits", "predictions") if name in points]
    rows.append(Row("total", parameters=count(network.parameters), macs=count(network.macs(height, width))))
    if all(unit.rate == 1 for unit in network.units):
        rows = [row._replace(rate="") for row in rows]
    columns(rows, bold={*network.blocks, "total"})
    out(paint("a unit is (depth, depth_bottleneck, stride)", "quiet"))


def _row(point: EndPoint, **more: str) -> Row:
    return Row(
        printable(point.name),
        output="x".join(map(str, point.shape)),
        parameters=count(point.parameters) if point.parameters else "",
        macs=count(point.macs) if point.macs else "",
    )._replace(**more)


def _unit_rows(units: Sequence[Unit], points: Mapping[str, EndPoint], unfold: bool) -> Iterator[Row]:
    """A line for each unit, or for each run of units that are alike."""

    def likeness(item: tuple[int, Unit]) -> object:
        place, unit = item
        return place if unfold else 0, dataclasses.replace(unit, name=""), points[unit.name].shape

    for _, run in groupby(enumerate(units, start=1), likeness):
        (first, unit), *others = run
        name = f"  unit_{first}" + (f" ... {others[-1][0]}" if others else "")
        point, alike = points[unit.name], 1 + len(others)
        yield _row(
            dataclasses.replace(point, name=name, parameters=alike * point.parameters, macs=alike * point.macs),
            triple=f"({unit.depth}, {unit.depth_bottleneck}, {unit.stride})",
            rate=str(unit.rate),
            shortcut=unit.shortcut,
        )


def _print_end_points(network: Network, points: Mapping[str, EndPoint]) -> None:
    rows = [("end point", "shape", "params", "MACs")]
    for point in points.values():
        row = _row(point)
        rows.append((row.name, row.output, row.parameters, row.macs))
    columns(rows)
    out()
    out(f"{len(points)} end points; each also as {printable(network.name)}/NAME, which is slim's key")


def _aliases(network: Network, name: str) -> list[str]:
    return [f"{network.name}/{name}"]


def _document(subject: _Subject, height: int, width: int) -> dict[str, Any]:
    network = subject.network
    points = network.end_points(height, width)
    checkpoint = {
        "path": subject.path,
        "format": subject.format,
        "bytes": subject.bytes,
        "evidence": subject.evidence,
        "unused": subject.unused,
    }

    def numbers(name: str) -> dict[str, Any]:
        point = points[name]
        return {"name": name, "shape": point.shape, "macs": point.macs, "parameters": point.parameters}

    def unit_row(unit: Unit) -> dict[str, Any]:
        fields = ("depth_in", "depth", "depth_bottleneck", "stride", "rate", "shortcut")
        return {**numbers(unit.name), **{field: getattr(unit, field) for field in fields}}

    return {
        "network": network.name,
        "family": network.family.name,
        "classes": network.num_classes,
        "parameters": network.parameters,
        "macs": network.macs(height, width),
        "image": (height, width, network.input_channels),
        "output_stride": network.output_stride,
        "blocks": [
            {**numbers(block), "units": [unit_row(unit) for unit in units]} for block, units in network.blocks.items()
        ],
        "end_points": [{**numbers(name), "aliases": _aliases(network, name)} for name in points],
        "preprocess": dataclasses.asdict(subject.preprocess) if subject.preprocess else None,
        "checkpoint": checkpoint if subject.path is not None else None,
    }


def _check_tensors(path: str, as_json: bool, external_data: bool) -> int:
    from ..checkpoints import read_checkpoint
    from ..loading import checkpoint_path
    from .target import misspelt

    with misspelt(path):
        checkpoint = read_checkpoint(checkpoint_path(path), external_data=external_data)
    damaged = list(_damaged(checkpoint))
    if as_json:
        out_json({"path": path, "tensors": len(checkpoint), "damaged": damaged}, indent=2)
        return REFUSED if damaged else 0
    if damaged:
        rows: list[Sequence[str]] = [("tensor", "NaN", "infinite", "negative")]
        rows += [
            (printable(row["name"]), *(f"{row[key]:,}" for key in ("nan", "infinite", "negative"))) for row in damaged
        ]
        columns(rows, right=3)
        out()
        out(f"{len(damaged)} of {len(checkpoint)} tensors are damaged")
        return REFUSED
    out(f"{len(checkpoint)} tensors, no NaN, nothing infinite, no negative variance")
    return 0


_VARIANCES = ("/moving_variance", ".running_var")  # TensorFlow's and Keras' ends of names, and torch's


def _damaged(checkpoint: Checkpoint) -> Iterator[dict[str, Any]]:
    """Tensors with values that no weight can have; only a variance must not be negative."""
    import numpy as np

    for name, array in checkpoint.items():
        if array.dtype.kind not in "fc":
            continue
        nan, infinite = int(np.isnan(array).sum()), int(np.isinf(array).sum())
        negative = int((array < 0).sum()) if name.endswith(_VARIANCES) else 0
        if nan or infinite or negative:
            yield {"name": name, "nan": nan, "infinite": infinite, "negative": negative}
