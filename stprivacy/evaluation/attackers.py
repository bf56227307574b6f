"""What does a fresh attacker find in released clips? One fit: trained on train, chosen on val, read once on test."""

import time
from typing import Any

import torch

from stprivacy.evaluation.fitting import Fit, predict, run_to_end, save_atomically
from stprivacy.evaluation.jobs import AttackJob, AttackResult, Epoch, best_epoch
from stprivacy.evaluation.linear import fit_linear


def run_attack(job: AttackJob) -> AttackResult:
    """Fit an attacker, going on where an earlier process was killed, and read it on test; a finished one is only read again."""
    finished = job.folder / "finished.pt"
    if not finished.exists():
        if job.kind == "linear":
            started = time.monotonic()
            outcome = fit_linear(job)
            print(_line(job, best_epoch([Epoch(**row) for row in outcome["curve"]]), time.monotonic() - started), flush=True)
        else:
            outcome = _fit_network(job)
        save_atomically(outcome, finished)
        (job.folder / "checkpoint.pt").unlink(missing_ok=True)
    outcome = torch.load(finished, weights_only=True)
    curve = tuple(Epoch(**row) for row in outcome["curve"])
    best = best_epoch(curve)
    return AttackResult(
        job.name, job.target, job.kind, job.seed, curve, best.epoch, best.val_score, curve[-1].train_loss, outcome["fitted"],
        outcome["val"].numpy(), outcome["test"].numpy(), job.folder / "best.safetensors",
    )  # fmt: skip


def _fit_network(job: AttackJob) -> dict[str, Any]:
    fit = Fit(job)
    network = run_to_end(fit, job.folder, lambda epoch, seconds: _line(job, epoch, seconds))
    val, test = (torch.from_numpy(predict(network, fit.released.views(split), job.target)) for split in ("val", "test"))
    return {"curve": fit.state()["curve"], "fitted": fit.fitted, "val": val, "test": test}


def _line(job: AttackJob, epoch: Epoch, seconds: float) -> str:
    score = {"action": "action top-1", "actions": "action mAP", "privacy": "cMAP"}[job.target]
    tried = f"penalty {epoch.epoch}" if job.kind == "linear" else f"epoch {epoch.epoch} of at most {job.attack.max_epochs}"
    return (
        f"{job.label}, {job.name}, seed {job.seed}: {tried}, train loss {epoch.train_loss:.3f}, "
        f"val {score} {epoch.val_score:.3f} ({seconds:.1f} s)"
    )
