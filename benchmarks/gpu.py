"""The measurements of `benchmarks.run` on a GPU, where there is one; writes results/bench-gpu.json.

python -m benchmarks.gpu [--reference DIR] [--rounds 5]
"""

import argparse
import os
from pathlib import Path

import torch

from benchmarks.run import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("STPRIVACY_REFERENCE")
    parser.add_argument("--reference", type=Path, default=Path(default) if default else None)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU here: nothing measured (torch.cuda.is_available() is false); `make bench` measures the CPU")
        return
    print(f"on {torch.cuda.get_device_name()}")
    run(args.reference, args.rounds, "cuda", Path("results/bench-gpu.json"))


if __name__ == "__main__":
    main()
