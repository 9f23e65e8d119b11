"""The README's table and the picture, from what run.py measured.

python benchmarks/report.py            write both
python benchmarks/report.py --check    fail where they are not what the results say
python benchmarks/report.py --targets  how far every ratio is from what the engine is to reach
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from picture import Bar, Panel, draw

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "engines.json"
README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "engines.svg"
BEGIN, END = "<!-- what benchmarks/report.py writes -->\n", "<!-- until here -->\n"

Results = Mapping[str, Mapping[str, Any]]

SLIM = {"resnet_v2_50": "ResNet-50", "resnet_v2_152": "ResNet-152"}
TORCHVISION = {"torchvision/resnet18": "torchvision ResNet-18", "torchvision/resnet50": "torchvision ResNet-50"}
TITLES = {
    "resforward": "resforward",
    "onnxruntime": "onnxruntime",
    "openvino": "OpenVINO",
    "ncnn": "ncnn",
    "torch": "torch, eager",
    "torch-compiled": "torch.compile",
    "tensorflow-slim": "TensorFlow, tf-slim",
}

# Instruction set of ours, what it is, and an engine whose float32 uses no more of the processor.
CAPPED = (("avx512", "without AMX", "onnxruntime"), ("avx2", "AVX2 only", "openvino"))

# What the engine is to reach: ours over theirs, at least; for time and memory at most. By run, engine.
TARGETS = {
    "resnet_v2_50/batch8": {
        "ncnn": 1.20, "onnxruntime": 1.32, "openvino": 1.40, "torch": 1.85, "tensorflow-slim": 1.65,
    },
    "resnet_v2_152/batch8": {
        "ncnn": 1.15, "onnxruntime": 1.36, "openvino": 1.34, "torch": 1.80, "tensorflow-slim": 1.55,
    },
    "resnet_v2_50/batch1": {"ncnn": 1.12, "onnxruntime": 1.22},
    "resnet_v2_152/batch1": {"ncnn": 1.07, "onnxruntime": 1.26},
    "torchvision/resnet18/batch8": {"onnxruntime": 1.30},
    "torchvision/resnet50/batch8": {"onnxruntime": 1.30},
    "resnet_v2_50/avx2/batch8": {"openvino": 1.25},
    "resnet_v2_152/avx2/batch8": {"openvino": 1.25},
}  # fmt: skip
TWO_THREADS = 1.85
PEAK_MEMORY = 1.3
FIRST_ANSWER = 1.0
GROWTH = tuple(f"resnet_v2_50/growth/batch{batch}" for batch in (1, 2, 4, 8, 16, 32, 64))


def tables(results: Results) -> str:
    """Everything between the marks in the README."""
    parts = [_speeds(results, SLIM), _speeds(results, TORCHVISION), _whole(results), _conditions(results)]
    return "\n".join(part for part in parts if part)


def _speeds(results: Results, networks: Mapping[str, str]) -> str:
    """Images a second, and in brackets ours over theirs."""
    columns = [(network, batch) for batch in (8, 1) for network in networks if f"{network}/batch{batch}" in results]
    names = [
        name
        for name in TITLES
        if any(name in results[f"{network}/batch{batch}"]["engines"] for network, batch in columns)
    ]
    if not columns:
        return ""
    lines = [
        f"| images/s | {' | '.join(f'{networks[network]}, batch {batch}' for network, batch in columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for name in names:
        cells = []
        version = ""
        for network, batch in columns:
            row = results[f"{network}/batch{batch}"]["engines"].get(name)
            cells.append("" if row is None else _speed(row))
            version = version or (row or {}).get("version", "")
        lines.append(f"| {_with_version(name, version)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _with_version(name: str, version: str) -> str:
    """An engine and its version; tf-slim's follows TensorFlow's."""
    if name == "tensorflow-slim":
        return f"TensorFlow {version}"
    head, _, tail = TITLES[name].partition(", ")
    return f"{head} {version}{', ' + tail if tail else ''}"


def _speed(row: Mapping[str, Any]) -> str:
    speed = f"{row['speed']['median']:.1f}"
    return f"**{speed}**" if row["ratio"] is None else f"{speed} ({row['ratio']['median']:.2f})"


def _whole(results: Results) -> str:
    """Whole processes against onnxruntime, and lesser instruction sets against an engine that uses no more."""
    lines = []
    for network, title in SLIM.items():
        if found := results.get(f"{network}/first_answer"):
            for what, field, digits in (("time", "seconds", 2), ("peak memory", "peak_mib", 0)):
                ours, theirs = (
                    found["summary"][name][field]["median"] for name in ("resforward predict", "onnxruntime script")
                )
                unit = "s" if field == "seconds" else "MiB"
                ratio = _process_ratio(found, field)
                lines.append(
                    f"| {title}, {what} of a process that labels one photograph | {ours:.{digits}f} {unit} |"
                    f" {theirs:.{digits}f} {unit} (onnxruntime) | {ratio:.2f} |"
                )
    for isa, what, other in CAPPED:
        for network, title in SLIM.items():
            engines = results.get(f"{network}/{isa}/batch8", {}).get("engines", {})
            if other in engines:
                ours, theirs = (engines[name] for name in ("resforward", other))
                lines.append(
                    f"| {title}, batch 8, {what} | {ours['speed']['median']:.1f} images/s |"
                    f" {theirs['speed']['median']:.1f} images/s ({TITLES[other]}) | {theirs['ratio']['median']:.2f} |"
                )
    if not lines:
        return ""
    return "\n".join(["| | resforward | other | ours / other |", "|---|---|---|---|", *lines]) + "\n"


def _process_ratio(found: Mapping[str, Any], field: str) -> float:
    """Of `resforward predict` to onnxruntime's program, the median of the rounds."""
    ratios = [row["resforward predict"][field] / row["onnxruntime script"][field] for row in found["rounds"]]
    return float(statistics.median(ratios))


def _conditions(results: Results) -> str:
    runs = [run for run in results.values() if "engines" in run]
    if not runs:
        return ""
    differences = [row["difference"] for run in runs for row in run["engines"].values()]
    worst = max((difference for difference in differences if difference is not None), default=0.0)
    main = [
        run
        for name, run in results.items()
        if name.endswith(("/batch8", "/batch1"))
        and not any(f"/{kind}/" in name for kind in ("avx512", "avx2", "growth"))
    ] or runs
    shown = [run for name, run in results.items() if "/growth/" not in name] or runs
    rounds = [run["settings"]["rounds"] for run in shown]
    load = max(run["load_average"] for run in shown)
    peaks = [run["machine"]["fma_gflops"]["median"] for run in main]
    reads = [run["machine"]["read_gb_per_second"]["median"] for run in main]
    dates = [run["date"][:10] for run in shown]
    first, last = min(dates), max(dates)
    days = first if first == last else f"{first} to {last}"
    return (
        f"{days}; {main[0]['cpu']}, {main[0]['isa']}, two threads on {main[0]['cores']} cores, fp32, 224 x 224; medians"
        f" of {_span(rounds)} rounds. The load average was up to {load:.1f} when a run began, which the runs before it"
        f" are part of. In the same rounds the machine did {_span(peaks)} GFLOP/s of multiply-adds alone and read"
        f" {_span(reads)} GB/s from memory. Largest difference of any engine's logits from ours: {worst:.1e} of the"
        " largest.\n"
    )


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.0f}", f"{max(values):.0f}"
    return low if low == high else f"{low} to {high}"


def panels(results: Results) -> list[Panel]:
    """A panel for each network and batch, engines by speed."""
    found = []
    for network, title in (SLIM | TORCHVISION).items():
        for batch in (8, 1):
            run = results.get(f"{network}/batch{batch}")
            if run is None:
                continue
            bars = [
                Bar(TITLES[name], row["speed"]["median"], row["speed"]["q1"], row["speed"]["q3"], name == "resforward")
                for name, row in run["engines"].items()
            ]
            found.append(Panel(f"{title}, batch {batch}", sorted(bars, key=lambda bar: -bar.value)))
    return found


def picture(results: Results) -> str:
    """The text of the SVG."""
    return draw(panels(results), "images per second, more is better; two threads, fp32, 224 x 224")


def with_tables(readme: str, text: str) -> str:
    """The README with `text` between its marks.

    Raises:
        SystemExit: it has no marks.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the README has no place for the table: {BEGIN.strip()} ... {END.strip()}")
    return f"{before}{begin}\n{text}\n{end}{after}"


def targets(results: Results) -> list[str]:
    """A line for every target: what it is, what was measured, whether it holds."""
    lines = []

    def line(what: str, found: float | None, bound: float, at_least: bool) -> None:
        if found is None:
            verdict = "not measured "
        else:
            holds = found >= bound if at_least else found <= bound
            verdict = f"{'holds ' if holds else 'MISSED'}  {found:5.2f}"
        lines.append(f"{verdict}  {'>=' if at_least else '<='} {bound:.2f}  {what}")

    for name, bounds in TARGETS.items():
        for engine, bound in bounds.items():
            row = results.get(name, {}).get("engines", {}).get(engine)
            line(f"{name}, ours / {engine}", row and row["ratio"]["median"], bound, at_least=True)
    for name in GROWTH:
        rounds = results.get(name, {}).get("rounds")
        ratio = rounds and statistics.median(row["resforward on 1"] / row["resforward on 2"] for row in rounds)
        line(f"{name}, two threads / one", ratio, TWO_THREADS, at_least=True)
    for network in SLIM:
        name = f"{network}/first_answer"
        run = results.get(name)
        for what, field, bound in (("time", "seconds", FIRST_ANSWER), ("memory", "peak_mib", PEAK_MEMORY)):
            ratio = None if run is None else _process_ratio(run, field)
            line(f"{name}, {what}, ours / onnxruntime", ratio, bound, at_least=False)
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Write, check or list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where something is out of date")
    parser.add_argument("--targets", action="store_true", help="print ratios beside their targets, and stop")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="PATH", help="what run.py wrote")
    args = parser.parse_args(arguments)
    results = json.loads(args.json.read_text())
    if args.targets:
        print("\n".join(targets(results)))
        return
    for path, text in ((README, with_tables(README.read_text(), tables(results))), (PICTURE, picture(results))):
        if args.check and (not path.exists() or path.read_text() != text):
            raise SystemExit(f"{path.relative_to(ROOT)} is not what the results say: python benchmarks/report.py")
        if not args.check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)


if __name__ == "__main__":
    main()
