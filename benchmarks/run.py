"""`make bench`: how fast this project is beside the authors' modules, in one run, one thread each; writes results/bench.json.

    python -m benchmarks.run [--reference DIR] [--rounds 3]

DIR holds `step_time.py` and `stprivacy_official/` (default: $STPRIVACY_REFERENCE). Without it the ratios that need it are left
out, and the output says so. A ratio above 1 means that ours is faster.
"""

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

from benchmarks.contestants import Contestant, alternate

BATCH = 4
KEEP_RATIOS = (1.0, 0.9, 0.7, 0.5, 0.3)
TARGETS = {
    "step_fp32_vs_reference": 2.0,
    "step_bf16_vs_reference": 2.0,
    "inference_vs_reference": 1.0,
    "dense_over_keep_0.3": 2.0,
    "loader_over_trainer": 5.0,
}
"""The least that each ratio should be."""


def measure_steps(reference: Path | None, rounds: int, device: str) -> dict[str, float]:
    """Seconds a clip of one adversarial step at the paper's configuration, a precision after the other."""
    seconds = {}
    for precision in ("fp32", "bf16"):
        options = ("--precision", precision, "--device", device, "--batch", str(BATCH))
        contestants = {f"step_{precision}/ours": Contestant("ours", "step", *options)}
        if reference:
            contestants[f"step_{precision}/reference"] = Contestant("reference", str(reference), "step", *options)
        seconds |= {name: value / BATCH for name, value in alternate(contestants, rounds).items()}
    return seconds


def measure_inference(reference: Path | None, rounds: int, device: str) -> dict[str, float]:
    """Seconds a clip of the paper-size anonymizer by keep ratio, in fp32."""
    options = ("--device", device, "--batch", str(BATCH))
    contestants = {
        f"inference/keep_{ratio:g}": Contestant("ours", "inference", "--keep-ratio", str(ratio), *options) for ratio in KEEP_RATIOS
    }
    if reference:
        contestants["inference/reference"] = Contestant("reference", str(reference), "inference", *options)
    return {name: value / BATCH for name, value in alternate(contestants, 3 * rounds).items()}


def measure_loader(rounds: int, device: str) -> dict[str, float]:
    """Seconds a clip of the loader, and of the trainer at the default configuration, in both phases."""
    contestants = {
        "loader": Contestant("ours", "loader"),
        "trainer/init": Contestant("ours", "train", "init", "--device", device),
        "trainer/game": Contestant("ours", "train", "game", "--device", device),
    }
    clips = {"loader": 480, "trainer/init": 24, "trainer/game": 24}
    return {name: value / clips[name] for name, value in alternate(contestants, 2 * rounds).items()}


def ratios_of(seconds: dict[str, float]) -> dict[str, float]:
    """How many times faster ours is; ratios whose other side was not measured are left out."""
    pairs = {
        "step_fp32_vs_reference": ("step_fp32/reference", "step_fp32/ours"),
        "step_bf16_vs_reference": ("step_bf16/reference", "step_bf16/ours"),
        "inference_vs_reference": ("inference/reference", "inference/keep_0.7"),
        "dense_over_keep_0.3": ("inference/keep_1", "inference/keep_0.3"),
    }
    ratios = {name: seconds[slow] / seconds[fast] for name, (slow, fast) in pairs.items() if slow in seconds}
    # The phase that asks for more clips a second is the one to keep up with.
    return ratios | {"loader_over_trainer": min(seconds["trainer/init"], seconds["trainer/game"]) / seconds["loader"]}


def show(seconds: dict[str, float], ratios: dict[str, float]) -> None:
    """Print what was measured and the ratios beside their targets."""
    print("\nmilliseconds a clip (median)")
    for name, value in seconds.items():
        print(f"  {name:24} {1000 * value:10.2f}")
    print("\nratio                         measured   target")
    for name, target in TARGETS.items():
        if name in ratios:
            print(f"  {name:26} {ratios[name]:9.2f}   ≥ {target:g}{'' if ratios[name] >= target else '   missed'}")
        else:
            print(f"  {name:26} left out: no reference; name its folder with --reference or STPRIVACY_REFERENCE")


def run(reference: Path | None, rounds: int, device: str, output: Path) -> dict[str, Any]:
    """Measure, print and write; gives what is written."""
    if reference and not (reference / "step_time.py").exists():
        raise SystemExit(f"error: {reference}: no step_time.py there; name the folder of the authors' modules, or leave --reference out")
    seconds = measure_steps(reference, rounds, device) | measure_inference(reference, rounds, device) | measure_loader(rounds, device)
    ratios = ratios_of(seconds)
    show(seconds, ratios)
    left_out = {name: "no reference" for name in TARGETS if name not in ratios}
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), "device": device}
    measured = {
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
        "targets": TARGETS,
        "left_out": left_out,
        "seconds_per_clip": {name: round(value, 6) for name, value in seconds.items()},
        "rounds": rounds,
        "machine": machine,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(measured, indent=2) + "\n")
    print(f"\nwritten to {output}")
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("STPRIVACY_REFERENCE")
    parser.add_argument("--reference", type=Path, default=Path(default) if default else None)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side that are counted (inference: three times as many)")
    args = parser.parse_args()
    run(args.reference, args.rounds, "cpu", Path("results/bench.json"))


if __name__ == "__main__":
    main()
