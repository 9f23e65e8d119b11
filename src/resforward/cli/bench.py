"""`resforward bench`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from .console import (
    count,
    debug_option,
    facts,
    in_words,
    out,
    out_json,
    printable,
    say,
    size_option,
    threads_option,
    winograd_option,
)

if TYPE_CHECKING:
    from ..bench import Measurement


@click.command()
@click.argument("target", metavar="[NETWORK or CHECKPOINT]", default="resnet_v2_50", type=click.Path())
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, metavar="N", help="Images at once.")
@size_option("Of the images. [default: 224, or less where it reads less]")
@click.option("--steps", type=click.IntRange(1), default=100, show_default=True, metavar="N", help="Timed runs.")
@click.option(
    "--warmup", type=click.IntRange(0), default=10, show_default=True, metavar="N", help="Untimed runs before."
)
@click.option("--per-unit", is_flag=True, help="Also where the time goes: a row for every unit.")
@threads_option
@winograd_option
@click.option("--json", "as_json", is_flag=True, help="One document: all durations, conditions and versions.")
@debug_option
def command(
    target: str,
    batch: int,
    size: tuple[int, int] | None,
    steps: int,
    warmup: int,
    per_unit: bool,
    threads: int | None,
    winograd: bool,
    as_json: bool,
) -> None:
    """Time the forward pass.

    A network runs with random weights. A step is one batch of random images; every ten steps are reported, and their
    mean and standard deviation at the end. The peak that the speed is compared with is measured between steps: 20 ms of
    independent multiply-adds on the same threads, the median of up to five.

    With --per-unit a table follows: a row for the root block (reading the images, conv1, pool1), for every residual
    unit, and for the head (the mean, the logits, writing the result). Norms, ReLUs and sums belong to the convolution
    whose result they take.

    \b
    ms       of a batch, from medians over the timed steps: one for each
             convolution, pool and mean, and one for convolutions that are
             computed together. Where those are of two units, each unit
             gets of that time in proportion to its multiply-adds
    share    of the total
    GFLOP/s  2 x the multiply-adds of its convolutions as written, whatever
             Winograd's method saves of them
    of peak  GFLOP/s as a part of the peak
    lost ms  what it takes beyond its multiply-adds at the peak; below 0
             where Winograd's method saves enough of them
    MB       its weights as written, once, and the feature maps that it
             reads from memory and writes there, each once for everything
             that runs in turn, in float32; not what convolutions computed
             together, or the parts of Winograd's method, hand on

    Two rows are marked: `slowest` takes the most ms, `most lost` has the most lost ms, the most to gain.

    \b
    resforward bench resnet_v2_152
    resforward bench resnet_v2_50 --batch 8 --per-unit
    resforward bench resnet_v2_50.ckpt --batch 1 --size 299 --threads 1 --json

    Keys of --json: network, source, parameters, batch, height, width, macs_per_image, warmup, steps, durations, mean,
    std, images_per_second, gflops, peak_gflops, peak_gflops_measured, peak_share, isa, threads, threads_reason,
    conditions. With --per-unit also units: name, block, seconds, share, seconds_lost, macs (of the batch), gflops,
    peak_share, weight_bytes, activation_bytes.
    """
    from ..bench import measure
    from ..model import build
    from .target import load_checkpoint, named_network

    network = named_network(target)
    options: dict[str, Any] = {"threads": threads, "winograd": winograd}
    model = build(network, **options) if network else load_checkpoint(target, **options)
    height, width = model.input_size
    with _progress(warmup + steps) as (write, advance):
        result = measure(
            model,
            batch=batch,
            size=size or (min(height, 224), min(width, 224)),
            steps=steps,
            warmup=warmup,
            threads_asked=threads,
            report=(lambda line: None) if as_json else write,
            between=advance,
            units=per_unit,
        )
    if as_json:
        out_json(result.as_dict(), indent=2)
    else:
        _print(result)
        if per_unit:
            from .units import print_units

            print_units(result)


@contextmanager
def _progress(steps: int) -> Iterator[tuple[Callable[[str], None], Callable[[int], object]]]:
    """How to write a line, and how to say that a step is done: with a bar on a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield out, lambda done: None
        return
    from tqdm import tqdm  # type: ignore[import-untyped]

    with tqdm(total=steps, unit=" steps", leave=False, dynamic_ncols=True) as bar:

        def write(line: str) -> None:
            with tqdm.external_write_mode():
                out(line)

        yield write, lambda done: bar.update()


def _weights(source: str) -> str:
    return f"random weights ({source})" if source.startswith("seed ") else printable(source)


def _print(result: Measurement) -> None:
    height, width = result.size
    out()
    facts(
        [
            (
                "network",
                f"{printable(result.network)}, {_weights(result.source)}; batch {result.batch} of {height}x{width}",
            ),
            ("speed", f"{result.images_per_second:.1f} images/s"),
            ("", f"{result.gflops:.0f} GFLOP/s, of {count(2 * result.macs)}FLOP an image: 2 x its multiply-adds"),
            ("peak", f"{100 * result.share:.0f}% of the {result.peak:.0f} GFLOP/s that multiply-adds alone reach here"),
            ("", f"(median of {len(result.peaks)} measurements of 20 ms, between steps)"),
            ("runs on", f"{result.isa}, {in_words(result.threads)}: {result.threads_reason}"),
            ("version", f"resforward {result.conditions['resforward']}, {result.conditions['processor']}"),
        ]
    )
    if (load := result.conditions["load_average"]) > 0.5:
        say(f"note: the load average was {load:.1f} before the first step; others may be at work on this machine")
