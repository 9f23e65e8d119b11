"""Images per second of this engine and of onnxruntime, in one alternating run.

    python benchmarks/forward.py --network resnet_v2_50 --batch 8 --threads 2 --json benchmarks/results/forward.json

Both get the same weights, images and number of threads, and must compute the same logits. In every round the FMA peak
of the machine is measured, then each engine has its turn; on a shared machine the ratio within a round holds, figures
of different rounds do not.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from measure import conditions, summary, write_json

import resforward as rf
from resforward import _core
from resforward.graph import plain_graph
from resforward.onnx_file import onnx_bytes

Array = npt.NDArray[np.float32]

TOLERANCE = (
    1e-5  # of the largest logit: what resforward promises; two exact engines differ by rounding only, about 2e-6
)


def main() -> None:
    """Run the benchmark that the command line describes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet_v2_50", choices=rf.NETWORKS, metavar="NAME")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="height and width of the images (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=3, help="timed calls in a turn (default: %(default)s)")
    parser.add_argument("--json", metavar="PATH", help="write the result there")
    args = parser.parse_args()

    result = conditions(["resforward", "numpy", "onnxruntime", "onnx"])
    network = rf.NETWORKS[args.network]
    model = rf.build(network, seed=0, threads=args.threads)
    shape = (args.batch, args.size, args.size, network.input_channels)
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    peer = onnxruntime_engine(network, model.weights, images, args.threads)
    engines: dict[str, Callable[[], Array]] = {"resforward": lambda: model(images), "onnxruntime": peer}
    difference = logits_difference(*(run() for run in engines.values()))

    rounds = []
    for number in range(1, args.rounds + 1):
        rest()
        row = {"fma_peak_gflops": _core.fma_peak(model.isa, args.threads, 0.1)}
        for name, run in engines.items():
            rest()
            row[name] = args.batch * args.calls / seconds(run, args.calls)
        row["ratio"] = row["resforward"] / row["onnxruntime"]
        rounds.append(row)
        print(f"{number:3}  " + "  ".join(f"{name} {value:.2f}" for name, value in row.items()), flush=True)

    columns = {name: summary([row[name] for row in rounds]) for name in rounds[0]}
    gflops = 2e-9 * network.macs(args.size, args.size)  # of one image, by direct convolution
    result |= {
        "isa": model.isa,
        "settings": {key: value for key, value in vars(args).items() if key != "json"},
        "logits_difference": difference,
        "gflop_per_image": gflops,
        "share_of_fma_peak": {
            name: summary([gflops * row[name] / row["fma_peak_gflops"] for row in rounds]) for name in engines
        },
        "summary": columns,
        "rounds": rounds,
    }
    print(f"\n{result['cpu']}, {result['isa']}, {args.threads} threads; {args.network}, batch {args.batch}")
    print(f"largest difference of logits over largest logit: {difference:.1e}")
    for name, unit in [("resforward", "images/s"), ("onnxruntime", "images/s"), ("fma_peak_gflops", ""), ("ratio", "")]:
        column = columns[name]
        print(f"{name:16} {column['median']:8.3f} {unit:8} quartiles {column['q1']:.3f} to {column['q3']:.3f}")
    if args.json:
        write_json(result, args.json)


def onnxruntime_engine(
    network: rf.Network, weights: dict[str, Array], images: Array, threads: int
) -> Callable[[], Array]:
    """onnxruntime with `network` loaded, and a call that computes the logits of `images`."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(
        onnx_bytes(plain_graph(network, weights)), options, providers=["CPUExecutionProvider"]
    )
    feed = {"images": np.ascontiguousarray(images.transpose(0, 3, 1, 2))}

    def run() -> Array:
        logits: Array = session.run(["logits"], feed)[0]
        return logits

    return run


def logits_difference(ours: Array, theirs: Array) -> float:
    """Largest difference over largest value.

    Raises:
        SystemExit: the engines did not compute the same thing, so their speeds cannot be compared.
    """
    difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    if not difference <= TOLERANCE:
        raise SystemExit(f"logits differ by {difference:.1e} of the largest; {TOLERANCE:.0e} is allowed")
    return difference


def rest() -> None:
    """Sleep until this process uses no CPU time: threads that spin for more work would slow down the next engine.

    Raises:
        SystemExit: some thread never went to sleep.
    """
    for _ in range(50):
        before = time.process_time()
        time.sleep(0.1)
        if time.process_time() - before < 0.001:  # one hundredth of the pause: no thread is spinning
            return
    raise SystemExit("threads still spin after five seconds")


def seconds(run: Callable[[], Any], calls: int) -> float:
    """Time of `calls` calls, after one that wakes the threads and fills the caches."""
    run()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
