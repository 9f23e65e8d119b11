"""`resforward convert`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import click

from ..errors import TargetError
from .console import count, debug_option, external_data_option, facts, out_json, printable, size_option


@click.command()
@click.argument("source", metavar="CHECKPOINT", type=click.Path(readable=False))
@click.argument("target", metavar="OUT", type=click.Path(readable=False))
@size_option("Of the images. [default: any]")
@click.option("--end-point", "end_points", multiple=True, metavar="NAME", help="A further output; may be repeated.")
@click.option("--bfloat16", is_flag=True, help="Weights in half the space, rounded; of .safetensors.")
@external_data_option
@click.option("--force", is_flag=True, help="Replace a file that is there already.")
@click.option("--json", "as_json", is_flag=True, help="One document.")
@debug_option
def command(
    source: str,
    target: str,
    size: tuple[int, int] | None,
    end_points: tuple[str, ...],
    bfloat16: bool,
    external_data: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Write a checkpoint as an ONNX file, or as a file of ours.

    OUT.onnx takes `images`, (N, channels, height, width) float32 and preprocessed; how, and what the classes are
    called, is in its metadata. It gives logits and the end points that are asked for, such as `predictions` or
    `block3`, and takes its name when it is complete. Needs the onnx package: pip install 'resforward[onnx]'.

    OUT.safetensors is the whole model: weights, network, preprocessing and labels. Nothing is concluded when it is
    loaded again.

    \b
    resforward convert resnet_v2_50.ckpt resnet_v2_50.onnx
    resforward convert resnet50-0676ba61.pth resnet50.safetensors --bfloat16
    resforward convert fashion fashion.onnx --size 28 --end-point global_pool --end-point predictions

    Keys of --json: path, format, bytes, outputs, metadata (of .onnx: network, source, input, pictures, preprocess,
    labels; of .safetensors: resforward).
    """
    from ..conversion import check_target, convert
    from .target import load_checkpoint, refuse_network

    with _our_words():
        check_target(target, force)
        refuse_network(source, "convert")
        model = load_checkpoint(source, external_data=external_data)
        written = convert(
            model,
            target,
            end_points=end_points,
            size=size,
            storage="bfloat16" if bfloat16 else "float32",
            overwrite=force,
        )
    if as_json:
        out_json(dataclasses.asdict(written), indent=2)
        return
    pictures = model.preprocess.describe() if model.preprocess else "preprocessing is not known"
    rows = [
        ("written", f"{printable(written.path)}: {written.format}, {count(written.bytes)}B"),
        ("input", written.metadata.get("input", "")),
        ("network", "" if written.outputs else printable(model.network.name)),
        ("pictures", pictures),
        ("outputs", ", ".join(map(printable, written.outputs))),
    ]
    facts([row for row in rows if row[1]])


@contextmanager
def _our_words() -> Iterator[None]:
    """Say what helps as an option, not as an argument of the function."""
    from ..conversion import REPLACES

    try:
        yield
    except TargetError as error:
        if error.help == REPLACES:
            error.help = "--force replaces it"
        raise
