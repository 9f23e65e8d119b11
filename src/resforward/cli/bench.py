"""`resforward bench`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from .console import (
    columns,
    count,
    debug_option,
    external_data_option,
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
    from ..model import Model
    from ..peers.compare import Row, Spread

_CALLS = 3  # timed runs in a turn, where engines take turns


def _engines(ctx: click.Context, _: click.Parameter, value: str | None) -> list[str]:
    """The engines of --against."""
    from ..errors import ResforwardError
    from ..peers import engine_names

    if value is None:
        return []
    try:
        return engine_names(value)
    except ResforwardError as error:
        raise click.BadParameter("\n".join(map(printable, str(error).split("\n")))) from error


@click.command()
@click.argument("target", metavar="[NETWORK or CHECKPOINT]", default="resnet_v2_50", type=click.Path(readable=False))
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, metavar="N", help="Images at once.")
@size_option("Of the images. [default: 224, or less where it reads less]")
@click.option(
    "--steps", type=click.IntRange(1), metavar="N", help="Timed runs. [default: 100, or 45 of each with --against]"
)
@click.option("--warmup", type=click.IntRange(0), metavar="N", help="Untimed runs before. [default: 10]")
@click.option("--per-unit", is_flag=True, help="Also where the time goes: a row for every unit.")
@click.option(
    "--against",
    "engines",
    metavar="ENGINE,...",
    callback=_engines,
    help="Take turns with other engines, and compare.",
)
@external_data_option
@threads_option
@winograd_option
@click.option("--json", "as_json", is_flag=True, help="One document: all durations, conditions and versions.")
@debug_option
def command(
    target: str,
    batch: int,
    size: tuple[int, int] | None,
    steps: int | None,
    warmup: int | None,
    per_unit: bool,
    engines: list[str],
    external_data: bool,
    threads: int | None,
    winograd: bool,
    as_json: bool,
) -> None:
    """Time the forward pass.

    A network runs with random weights. A step is one batch of random images; every ten steps are reported, and their
    mean and standard deviation at the end. The peak that the speed is compared with is measured between steps: 20 ms of
    independent multiply-adds on the same threads, the median of up to five. RESFORWARD_ISA asks for another instruction
    set than the best; `doctor` names them.

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
    of peak  GFLOP/s as a part of the peak, which is that of float32: AMX
             has no part in it
    lost ms  what it takes beyond its multiply-adds at the peak; below 0
             where Winograd's method or AMX saves enough of it
    MB       its weights as written, once, and the feature maps that it
             reads from memory and writes there, each once for everything
             that runs in turn, in float32; not what convolutions computed
             together, or the parts of Winograd's method, hand on

    Two rows are marked: `slowest` takes the most ms, `most lost` has the most lost ms, the most to gain.

    With --against, each engine is a process of its own with the same network, images and threads; the engines are
    onnxruntime, openvino, ncnn, torch, torch-compiled and tensorflow-slim, as far as they are installed. One computes
    while the others sleep, in turns of an untimed and three timed runs; the ratio is that of two turns of one round,
    and what is printed its median with quartiles. All must compute the same logits.

    \b
    resforward bench resnet_v2_152
    resforward bench resnet_v2_50 --batch 8 --per-unit
    resforward bench resnet_v2_50.ckpt --batch 1 --size 299 --threads 1 --json
    resforward bench --batch 8 --against onnxruntime,openvino,ncnn

    Keys of --json: network, source, parameters, batch, height, width, macs_per_image, warmup, winograd, steps,
    durations, mean, std, images_per_second, gflops, peak_gflops, peak_gflops_measured, peak_share, isa, threads,
    threads_reason, conditions. With --per-unit also units: name, block, seconds, share, seconds_lost, macs (of the
    batch), gflops, peak_share, weight_bytes, activation_bytes.

    Keys of --json with --against: network, source, batch, height, width, rounds, calls, isa, threads, engines (of each:
    engine, version, speed, ratio, difference), conditions.
    """
    from ..bench import measure
    from ..loading import build
    from ..peers import check_installed
    from .target import load_checkpoint, named_network

    if engines and (warmup is not None or per_unit):
        raise click.UsageError(f"--{'per-unit' if per_unit else 'warmup'} does not go with --against")
    check_installed(engines)
    network = named_network(target)
    options: dict[str, Any] = {"threads": threads, "winograd": winograd}
    model = build(network, **options) if network else load_checkpoint(target, external_data=external_data, **options)
    height, width = model.input_size
    size = size or (min(height, 224), min(width, 224))
    if engines:
        _compare(model, engines, batch, size, -(-(steps or 45) // _CALLS), as_json)
        return
    steps, warmup = steps or 100, 10 if warmup is None else warmup
    with _progress(warmup + steps, "steps") as (write, advance):
        result = measure(
            model,
            batch=batch,
            size=size,
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


def _compare(model: Model, engines: list[str], batch: int, size: tuple[int, int], rounds: int, as_json: bool) -> None:
    from ..bench import conditions
    from ..peers.compare import compare

    told = conditions()
    with _progress(rounds, "rounds") as (_, advance):
        rows = compare(model, engines, batch=batch, size=size, rounds=rounds, calls=_CALLS, between=advance)
    if as_json:
        out_json(
            {
                "network": model.network.name,
                "source": model.source,
                "batch": batch,
                "height": size[0],
                "width": size[1],
                "rounds": rounds,
                "calls": _CALLS,
                "isa": model.isa,
                "threads": model.threads,
                "engines": [row.as_dict() for row in rows],
                "conditions": told,
            },
            indent=2,
        )
        return
    _print_rows(rows)
    out()
    facts(
        [
            (
                "network",
                f"{printable(model.network.name)}, {_weights(model.source)}; batch {batch} of {size[0]}x{size[1]}",
            ),
            ("runs on", f"{model.isa}{_method(model.winograd)}, {in_words(model.threads)}, {told['processor']}"),
            ("measured", f"{rounds} rounds of {_CALLS} runs each, medians; in brackets quartiles"),
        ]
    )
    _note_load(told["load_average"])


def _print_rows(rows: list[Row]) -> None:
    def spread(value: Spread | None) -> str:
        return f"{value.median:.2f} [{value.q1:.2f} {value.q3:.2f}]" if value else ""

    table = [("engine", "version", "images/s", "ours / theirs", "logits differ by")]
    for row in rows:
        difference = "" if row.difference is None else f"{row.difference:.1e}"
        table.append((row.engine, row.version, f"{row.speed.median:.1f}", spread(row.ratio), difference))
    columns(table, right=3)


@contextmanager
def _progress(steps: int, unit: str) -> Iterator[tuple[Callable[[str], None], Callable[[int], object]]]:
    """How to write a line, and how to say that a step is done: with a bar on a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield out, lambda done: None
        return
    from tqdm import tqdm  # type: ignore[import-untyped]

    with tqdm(total=steps, unit=f" {unit}", leave=False, dynamic_ncols=True) as bar:

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
            ("runs on", f"{result.isa}{_method(result.winograd)}, {in_words(result.threads)}: {result.threads_reason}"),
            ("version", f"resforward {result.conditions['resforward']}, {result.conditions['processor']}"),
        ]
    )
    _note_load(result.conditions["load_average"])


def _method(winograd: bool) -> str:
    return "" if winograd else " without Winograd's method"


def _note_load(load: float) -> None:
    if load > 0.5:
        say(f"note: the load average was {load:.1f} before the first step; others may be at work on this machine")
