"""Time from process start to the printed label of one photograph: resforward and onnxruntime, whole processes.

resforward starts from a TensorFlow checkpoint, onnxruntime from an .onnx file of the same network; both decode the same
JPEG, preprocess it in the same way and must print the same label. `predict` gets `-q`. The programs take turns; their
files are in the page cache. run.py starts it, as a process of its own: what a process uses counts as used by those that
it starts.

    python benchmarks/first_answer.py NETWORK ROUNDS INTERPRETER_WITH_ONNXRUNTIME
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measure import Process, run_process, summary

HERE = Path(__file__).parent


def measure(network: str, rounds: int, onnxruntime_python: Path) -> dict[str, Any]:
    """Run all programs in turn.

    Args:
        network: a published resnet_v2, whose preprocessing the peer's program has.
        rounds: turns of every program.
        onnxruntime_python: an interpreter with onnxruntime and Pillow.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Apart as well, for the same reason.
        subprocess.run([sys.executable, HERE / "first_answer_files.py", network, folder], check=True)
        checkpoint, onnx, labels, image = (
            str(folder / file) for file in ("model.ckpt", "model.onnx", "labels.txt", "photograph.jpg")
        )
        programs = {
            "resforward predict": [
                str(Path(sys.executable).with_name("resforward")), "predict", "-q", "-m", checkpoint, image,
            ],
            "resforward script": [sys.executable, str(HERE / "first_answer_resforward.py"), checkpoint, image],
            "onnxruntime script": [
                str(onnxruntime_python), str(HERE / "first_answer_onnxruntime.py"), onnx, labels, image,
            ],
        }  # fmt: skip
        label = same_label({name: run_process(command) for name, command in programs.items()})
        found = [{name: run_process(command) for name, command in programs.items()} for _ in range(rounds)]
    return {
        "settings": {"network": network, "rounds": rounds},
        "label": label,
        "summary": {
            name: {
                field: summary([getattr(row[name], field) for row in found])
                for field in ("seconds", "cpu_seconds", "peak_mib")
            }
            for name in programs
        },
        "time_over_onnxruntime": {
            name: summary([row[name].seconds / row["onnxruntime script"].seconds for row in found])
            for name in programs
            if name.startswith("resforward")
        },
        # What they printed holds the paths of this run.
        "rounds": [
            {name: {k: v for k, v in asdict(process).items() if k != "output"} for name, process in row.items()}
            for row in found
        ],
    }


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
    json.dump(measure(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])), sys.stdout)
