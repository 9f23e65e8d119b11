"""`resforward pull`."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from .console import columns, count, debug_option, facts, out, out_json, printable, say

_NOT_COMPARED = "no checksum is published to compare it with"


@click.command()
@click.argument("name", required=False)
@click.option("--to", "folder", default=".", type=click.Path(readable=False), metavar="FOLDER", help="Where to.")
@click.option("--list", "list_names", is_flag=True, help="Every name, instead.")
@click.option("--json", "as_json", is_flag=True, help="One document.")
@debug_option
def command(name: str | None, folder: str, list_names: bool, as_json: bool) -> None:
    """Download published weights.

    TF-slim's, Keras' and torchvision's, from where they are published; for timm's, and others on the Hugging Face Hub,
    give hf://owner/name to any other command. A download that breaks off leaves a .part file, and goes on from there
    when it is called again. The file takes its name when all is there; the checksum, where one is published, is
    compared before.

    \b
    resforward pull --list
    resforward pull resnet_v2_50
    resforward pull torchvision_resnet50_v2 --to models

    Keys of --json: name, path, url, bytes, sha256, compared, there_already. With --list, of each: name, url, file,
    checksum.
    """
    if list_names == (name is not None):
        raise click.UsageError("give the name of weights, or --list")
    if name is None:
        _list(as_json)
        return
    from ..download import pull

    with _progress() as progress:
        pulled = pull(name, folder, progress=progress, tell=lambda line: say(printable(line)))
    if as_json:
        out_json({"name": name, **dataclasses.asdict(pulled)}, indent=2)
        return
    there = ", there already" if pulled.there_already else ""
    facts(
        [
            ("file", f"{printable(pulled.path)}: {count(pulled.bytes)}B{there}"),
            ("sha256", pulled.sha256),
            ("compared", f"{pulled.compared}: as published" if pulled.compared else _NOT_COMPARED),
            ("next", f"resforward inspect {printable(shlex.quote(pulled.path))}"),
        ]
    )


def _list(as_json: bool) -> None:
    from ..weights import WEIGHTS

    if as_json:
        rows = [
            {"name": name, **row._asdict(), "checksum": row.checksum and row.checksum._asdict()}
            for name, row in WEIGHTS.items()
        ]
        out_json(rows, indent=2)
        return
    columns(
        [("name", "file", "published checksum")]
        + [(name, row.file, row.checksum.describe() if row.checksum else "none") for name, row in WEIGHTS.items()],
        right=0,
    )
    out()
    out("resforward pull NAME downloads one")


@contextmanager
def _progress() -> Iterator[Callable[[int, int | None], None]]:
    """A bar on a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from tqdm import tqdm  # type: ignore[import-untyped]

    with tqdm(unit="B", unit_scale=True, leave=False, dynamic_ncols=True, initial=0) as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
