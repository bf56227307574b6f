"""The authors' modules as a contestant: one adversarial step, or the anonymizer's inference, as the folder's `step_time.py` has them.

python -m benchmarks.reference FOLDER step|inference --precision fp32|bf16 --device cpu|cuda --batch 4
"""

import argparse
import importlib.util
from pathlib import Path
from types import ModuleType

import torch

from benchmarks.contestants import serve


def load_step_time(folder: Path) -> ModuleType:
    """`step_time.py` of the folder; it brings the authors' modules with it."""
    spec = importlib.util.spec_from_file_location("step_time", folder / "step_time.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"{folder}: no step_time.py there")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("what", choices=("step", "inference"))
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=4)
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(0)
    official = load_step_time(args.folder)
    models = [model.to(args.device) for model in official.build(num_actions=51, num_attributes=5)]
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-4) for model in models]
    clip = torch.rand(args.batch, 3, 16, 112, 112, device=args.device)
    action = torch.randint(0, 51, (args.batch,), device=args.device)
    attributes = torch.randint(0, 2, (args.batch, 5), device=args.device).float()

    def work() -> None:
        with torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16"):
            if args.what == "step":
                official.adversarial_step(models, optimizers, clip, action, attributes)
            else:
                with torch.no_grad():
                    models[0].eval()(clip)

    serve(work, torch.cuda.synchronize if args.device == "cuda" else lambda: None)


if __name__ == "__main__":
    main()
