"""`resforward predict`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import click

from ..errors import ImageError
from .console import (
    SOME_FAILED,
    debug_option,
    external_data_option,
    in_words,
    out,
    out_json,
    paint,
    printable,
    say,
    say_error,
    threads_option,
    winograd_option,
)

if TYPE_CHECKING:
    from ..labels import Prediction
    from ..model import Model

_BATCH = 32
_MAX_STDIN = 1 << 30  # bytes; a file may hold as many
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")

Answer = tuple[str, "list[Prediction] | ImageError"]


@click.command()
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(readable=False))
@click.option(
    "-m",
    "--model",
    "source",
    default="fashion",
    show_default=True,
    type=click.Path(readable=False),
    help="A checkpoint, hf://owner/name, or `fashion`.",
)
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, metavar="N", help="Classes an image.")
@click.option(
    "--labels", type=click.Path(readable=False), metavar="FILE", help="Names of the classes, one a line, class 0 first."
)
@click.option(
    "--num-classes", type=click.IntRange(1), metavar="N", help="Of the network, where the file leaves it open."
)
@click.option(
    "--preprocess", metavar="NAME", help="A row of docs/preprocessing.md. [default: what the weights were trained with]"
)
@external_data_option
@threads_option
@winograd_option
@click.option("--json", "as_json", is_flag=True, help="One object a line for each image.")
@click.option("-q", "--quiet", is_flag=True, help="No line about the model.")
@debug_option
def command(
    images: tuple[str, ...],
    source: str,
    top: int,
    labels: str | None,
    num_classes: int | None,
    preprocess: str | None,
    external_data: bool,
    threads: int | None,
    winograd: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Label pictures.

    An IMAGE is a file, `-` for a picture's bytes on stdin, or a folder: the pictures in it, by the endings of their
    names, but not in folders inside it. An image that cannot be read is one error on stderr; the others are answered.

    \b
    resforward predict -m resnet_v2_50.ckpt photos/*.jpg --top 1
    resforward predict -m resnet_v2_50.ckpt --json cat.jpg
    curl -s https://example.org/boot.png | resforward predict -

    With --json, a line is {"path", "predictions": [{"index", "label", "probability"}, ...]}, or {"path", "error"}.
    """
    if images.count("-") > 1:
        raise click.UsageError("stdin holds one picture: give `-` once")
    from ..labels import read_labels
    from .target import load_checkpoint, refuse_network

    refuse_network(source, "predict")
    model = load_checkpoint(
        source,
        num_classes=num_classes,
        preprocess=preprocess,
        threads=threads,
        winograd=winograd,
        external_data=external_data,
    )
    if labels is not None:
        model.labels = read_labels(labels, model.network.num_classes)
    if not quiet:
        say(paint(_about(model), "quiet"))
    failed = total = 0
    paths = [path for image in images for path in _pictures(image)]
    width = max(len(printable(path)) for path, _ in paths)
    for path, answer in _answers(model, paths, top):
        total += 1
        if isinstance(answer, ImageError):
            failed += 1
            if as_json:
                out_json({"path": path, "error": answer.message})
            else:
                named = f"`{os.path.basename(path)}`" in answer.message and os.path.basename(path) == path
                message = answer.message if named or path in answer.message else f"{path}: {answer.message}"
                say_error(message, answer.found, answer.help)
        elif as_json:
            rows = [{"index": row.class_index, "label": row.label, "probability": row.probability} for row in answer]
            out_json({"path": path, "predictions": rows})
        elif top == 1:
            out(f"{printable(path).ljust(width)}  {_row(answer[0], answer)}")
        else:
            out(paint(printable(path), "title"))
            for row in answer:
                out(f"  {_row(row, answer)}")
    if failed and total > 1:
        say(f"{failed} of {total} images failed")
    return SOME_FAILED if failed else 0


def _about(model: Model) -> str:
    pictures = model.preprocess.describe() if model.preprocess else "not known"
    return (
        f"{printable(model.network.name)} from {printable(model.source)}: {model.network.num_classes} classes,"
        f" {model.isa}, {in_words(model.threads)}; pictures: {pictures}"
    )


def _row(row: Prediction, rows: Sequence[Prediction]) -> str:
    index = max(len(str(other.class_index)) for other in rows)
    return f"{100 * row.probability:6.2f}%  {paint(str(row.class_index).rjust(index), 'quiet')}  {printable(row.label)}"


def _pictures(path: str) -> list[tuple[str, ImageError | None]]:
    """The files that an argument stands for, or why there are none."""
    if path == "-" or not os.path.isdir(path):
        return [(path, None)]
    try:
        names = sorted(name for name in os.listdir(path) if name.lower().endswith(_SUFFIXES))
    except OSError as error:
        return [(path, ImageError(f"the folder `{path}` cannot be listed: {(error.strerror or '').lower()}"))]
    if not names:
        advice = f"pictures are told by {', '.join(_SUFFIXES)}; name files of other endings themselves"
        return [(path, ImageError(f"the folder `{path}` holds no pictures", help=advice))]
    return [(os.path.join(path, name), None) for name in names]


def _stdin() -> bytes:
    if sys.stdin is None:
        raise ImageError("stdin is closed, and a picture was to come from there")
    data = sys.stdin.buffer.read(_MAX_STDIN + 1)
    if len(data) > _MAX_STDIN:
        raise ImageError("stdin holds more than 1 GiB, which no picture needs")
    return data


def _answers(model: Model, paths: Sequence[tuple[str, ImageError | None]], top: int) -> Iterator[Answer]:
    """Answers in the order of the paths; never more than a batch of pictures is held."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    from ..errors import NetworkError
    from ..labels import top_k

    preprocess = model.preprocess
    if preprocess is None or not model.network.num_classes or not model.network.global_pool:
        lacks = "known preprocessing" if preprocess is None else "classifier with global pool"
        raise NetworkError(f"{model.network.name} has no {lacks}, so it cannot label pictures")

    def read(item: tuple[str, ImageError | None]) -> np.ndarray | ImageError:
        path, error = item
        if error:
            return error
        try:
            return preprocess(_stdin() if path == "-" else path)
        except ImageError as error:
            return error
        except MemoryError:
            return ImageError(f"`{path}` does not fit in memory")

    todo = iter(paths)
    with ThreadPoolExecutor(model.threads) as pool:
        while items := list(islice(todo, _BATCH)):
            read_items = list(pool.map(read, items))
            batch = [picture for picture in read_items if not isinstance(picture, ImageError)]
            rows: Iterator[np.ndarray] = iter(())
            if batch:
                rows = iter(model.forward(np.stack(batch), ["predictions"])["predictions"][:, 0, 0, :])
            for (path, _), picture in zip(items, read_items, strict=True):
                if isinstance(picture, ImageError):
                    yield path, picture
                elif np.isfinite(row := next(rows)).all():
                    yield path, top_k(row, top, model.labels)
                else:
                    yield path, ImageError(f"`{path}` gets probabilities that are NaN or infinite")
