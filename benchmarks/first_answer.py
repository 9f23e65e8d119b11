"""Time from process start to the printed label of one photograph: resforward and onnxruntime, whole processes.

    python benchmarks/first_answer.py --json benchmarks/results/first_answer.json

resforward starts from a TensorFlow checkpoint, onnxruntime from an .onnx file of the same network; both decode the same
JPEG, preprocess it in the same way and must print the same label. The programs take turns; their files are in the page
cache.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from measure import Process, conditions, run_process, summary, write_json

HERE = Path(__file__).parent
NETWORKS = [f"resnet_v2_{depth}" for depth in (50, 101, 152, 200)]  # those of the preprocessing in the peer's program


def main() -> None:
    """Run the benchmark that the command line describes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet_v2_50", choices=NETWORKS)
    parser.add_argument("--image", type=Path, help="a photograph (default: a JPEG of 640 x 480, made here)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", metavar="PATH", help="write the result there")
    args = parser.parse_args()

    result = conditions(["resforward", "numpy", "Pillow", "onnxruntime", "onnx"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In a process of its own, for what this one uses would count as used by those that it starts.
        subprocess.run([sys.executable, HERE / "first_answer_files.py", args.network, folder], check=True)
        image = args.image or folder / "photograph.jpg"
        checkpoint, onnx, labels = (str(folder / file) for file in ("model.ckpt", "model.onnx", "labels.txt"))
        programs = {
            "resforward predict": [
                str(Path(sys.executable).with_name("resforward")), "predict", "-m", checkpoint, str(image),
            ],
            "resforward script": [sys.executable, str(HERE / "first_answer_resforward.py"), checkpoint, str(image)],
            "onnxruntime script": [
                sys.executable, str(HERE / "first_answer_onnxruntime.py"), onnx, labels, str(image),
            ],
        }  # fmt: skip
        label = same_label({name: run_process(command) for name, command in programs.items()})
        rounds = [{name: run_process(command) for name, command in programs.items()} for _ in range(args.rounds)]

    columns = {
        name: {
            field: summary([getattr(row[name], field) for row in rounds])
            for field in ("seconds", "cpu_seconds", "peak_mib")
        }
        for name in programs
    }
    ratios = {
        name: summary([row[name].seconds / row["onnxruntime script"].seconds for row in rounds])
        for name in programs
        if name.startswith("resforward")
    }
    print(f"{'':20} {'median s':>9} {'quartiles':>16} {'CPU s':>7} {'peak MiB':>9}")
    for name, column in columns.items():
        time = column["seconds"]
        print(
            f"{name:20} {time['median']:9.3f} {time['q1']:8.3f} {time['q3']:7.3f}"
            f" {column['cpu_seconds']['median']:7.3f} {column['peak_mib']['median']:9.0f}"
        )
    for name, ratio in ratios.items():
        print(f"{name} / onnxruntime script: {ratio['median']:.3f}, quartiles {ratio['q1']:.3f} to {ratio['q3']:.3f}")
    result |= {
        "settings": {"network": args.network, "image": args.image and args.image.name, "rounds": args.rounds},
        "label": label,
        "summary": columns,
        "time_over_onnxruntime": ratios,
        # What they printed holds the paths of this run.
        "rounds": [
            {name: {k: v for k, v in asdict(process).items() if k != "output"} for name, process in row.items()}
            for row in rounds
        ],
    }
    if args.json:
        write_json(result, args.json)


def same_label(answers: dict[str, Process]) -> str:
    """The label that onnxruntime's program printed.

    Raises:
        SystemExit: another program printed another one.
    """
    label = answers["onnxruntime script"].output
    for name, answer in answers.items():
        if label not in answer.output:
            raise SystemExit(f"onnxruntime's label is {label!r}, {name} printed {answer.output!r}")
    return label


if __name__ == "__main__":
    main()
