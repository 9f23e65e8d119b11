"""Write what first_answer.py gives to the engines: one network as a TensorFlow checkpoint and as an .onnx file, the
labels of its classes, and a photograph.

    python benchmarks/first_answer_files.py resnet_v2_50 FOLDER
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

import resforward as rf
from resforward.graph import plain_graph
from resforward.onnx_file import onnx_bytes

TESTS = Path(__file__).parent.parent / "tests"


def main(name: str, folder: Path) -> None:
    """Write model.ckpt, model.onnx, labels.txt and photograph.jpg into `folder`."""
    network = rf.NETWORKS[name]
    weights = rf.build(network, seed=0).weights
    bundle = runpy.run_path(str(TESTS / "tf_writer.py"))["bundle"]
    for suffix, data in bundle({f"{name}/{variable}": array for variable, array in weights.items()}).items():
        (folder / f"model.ckpt{suffix}").write_bytes(data)
    (folder / "model.onnx").write_bytes(onnx_bytes(plain_graph(network, weights)))
    labels = rf.load(folder / "model.ckpt").labels
    (folder / "labels.txt").write_text("\n".join(labels or ()) + "\n", encoding="utf-8")
    Image.fromarray(picture(480, 640)).save(folder / "photograph.jpg", quality=95)


def picture(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Smooth waves of colour, the same at every run: (height, width, 3)."""
    y, x = np.mgrid[0:height, 0:width] / height
    waves = [np.sin(5 * x + 3 * y), np.sin(9 * x * y + 1), np.cos(7 * y - 4 * x)]
    return np.stack([127.5 * (1 + wave) for wave in waves], axis=-1).round().astype(np.uint8)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
