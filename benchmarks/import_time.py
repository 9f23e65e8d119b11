"""What `import resforward` costs a fresh interpreter: time, and the packages that it imports.

python benchmarks/import_time.py --json benchmarks/results/import_time.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from measure import conditions, run_process, summary, write_json

LAZY = ["PIL", "click", "h5py", "huggingface_hub", "onnx"]  # resforward promises to import them only when needed
WATCHED = [*LAZY, "tqdm", "safetensors", "google_crc32c", "numpy"]


def main() -> None:
    """Run the benchmark that the command line describes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", metavar="PATH", help="write the result there")
    args = parser.parse_args()

    result = conditions(["resforward", "numpy"])
    programs = {
        "bare interpreter": [sys.executable, "-c", "pass"],
        "import numpy": [sys.executable, "-c", "import numpy"],
        "import resforward": [sys.executable, "-c", "import resforward"],
        "resforward --help": [str(Path(sys.executable).with_name("resforward")), "--help"],
    }
    for command in programs.values():  # so that bytecode is compiled and files are in the page cache
        run_process(command)
    rounds = [{name: run_process(command).seconds for name, command in programs.items()} for _ in range(args.rounds)]

    columns = {name: summary([row[name] for row in rounds]) for name in programs}
    own = summary([row["import resforward"] - row["bare interpreter"] for row in rounds])
    listing = run_process([sys.executable, "-c", "import resforward, sys; print(*sys.modules)"]).output.split()
    imported = [package for package in WATCHED if package in listing]

    for name, column in columns.items():
        median, q1, q3 = (1e3 * column[key] for key in ("median", "q1", "q3"))
        print(f"{name:18} {median:6.1f} ms, quartiles {q1:.1f} to {q3:.1f}")
    print(f"import resforward over the bare interpreter: {1e3 * own['median']:.1f} ms; imports {', '.join(imported)}")
    result |= {
        "settings": {"rounds": args.rounds},
        "import_seconds": own,
        "imported": imported,
        "summary": columns,
        "rounds": rounds,
    }
    if args.json:
        write_json(result, args.json)
    if broken := sorted(set(imported) & set(LAZY)):
        raise SystemExit(f"import resforward imports {', '.join(broken)}")


if __name__ == "__main__":
    main()
