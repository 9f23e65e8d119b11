"""Build benchmarks/kernels.cc, run it, and keep what it measured: kernels against the FMA peak.

python benchmarks/kernels.py --isa avx512 --json benchmarks/results/kernels.json
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import subprocess

from measure import conditions, write_json

ROOT = pathlib.Path(__file__).resolve().parent.parent


def main() -> None:
    """Print a line for each layer, and write the JSON that was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--isa", default="avx512", help="amx, avx512, avx2 or portable")
    parser.add_argument("--rounds", type=int, default=200, help="ratios for each layer")
    parser.add_argument("--json", help="file to write")
    args = parser.parse_args()
    build = ROOT / "build" / "kernels"
    configure = ["cmake", "-S", str(ROOT), "-B", str(build), "-DRESFORWARD_TESTS=ON"]
    subprocess.run(configure, check=True, capture_output=True)
    subprocess.run(["cmake", "--build", str(build), "--target", "bench_kernels"], check=True, capture_output=True)
    run = subprocess.run(
        [str(build / "bench_kernels"), args.isa, str(args.rounds)], check=True, capture_output=True, text=True
    )
    result = json.loads(run.stdout)
    for layer in result["layers"]:
        low, median, high = layer["share"]
        what = f"{layer['kernel']}x{layer['kernel']}/{layer['stride']} {layer['depth_in']} -> {layer['depth']}"
        print(f"{layer['layer']:22} {what:20} {median:6.1%} of peak, quartiles {low:.1%} to {high:.1%}")
    plain = [layer["share"][1] for layer in result["layers"] if not layer["sum"]]
    summed = [layer["share"][1] for layer in result["layers"] if layer["sum"]]
    print(f"{result['isa']}, peak {result['peak_gflops']:.0f} GFLOP/s on one thread")
    print(f"median of {len(plain)} convolutions {statistics.median(plain):.1%}, lowest {min(plain):.1%}")
    print(f"with shortcut and two outputs: median {statistics.median(summed):.1%}, lowest {min(summed):.1%}")
    if args.json:
        write_json(result | {"conditions": conditions([])}, args.json)


if __name__ == "__main__":
    main()
