"""Judge one method: release every clip, attack the releases afresh at each kept share and seed. `results.py` writes what was found."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stprivacy.config import Params
from stprivacy.evaluation.attackers import AttackJob, AttackResult, run_attack
from stprivacy.evaluation.released import LEARNED, Released, ReleaseJob, release

NOTHING_DROPPED = 1.0
"""The kept share of a method that drops no tubelets."""
SideBySide = Callable[[Callable[..., Any], Sequence[tuple]], list[Any]]
"""side_by_side(function, arguments) → results in order; `training.distributed.run_tasks`, or a plain loop."""


@dataclass(frozen=True)
class Point:
    """A method at one kept share, attacked with one seed."""

    kept_share: float | None
    """None for a method that drops no tubelets."""
    keep_ratio: float | None
    seed: int
    action: AttackResult
    privacy: tuple[AttackResult, ...]

    @property
    def strongest(self) -> AttackResult:
        """The privacy attacker with the best val score: the one that counts."""
        return max(self.privacy, key=lambda result: result.val_score)


@dataclass(frozen=True)
class Judgement:
    """All points of a method, and the releases that were attacked."""

    method: str
    points: tuple[Point, ...]
    released: dict[float | None, Released]
    """By kept share."""
    shards: Path


def judge(method: str, params: Params, shards: Path, model: Path, cache: Path, side_by_side: SideBySide) -> Judgement:
    """Release and attack `method` at every kept share and seed of params.

    `model`: the folder of the learned anonymizer (read for a learned method alone). `cache`: where releases and fits are kept, so
    that a killed stage goes on. Raises UserError for an unknown method.
    """
    learned, cache = method in LEARNED, cache.absolute()
    shares = params.evaluate.kept_shares if learned else (NOTHING_DROPPED,)
    releases = [
        ReleaseJob(method, share, shards.absolute(), model.absolute(), params.clip, params.channel, params.evaluate.attack, cache)
        for share in shares
    ]
    released = dict(zip(shares, map(Released, side_by_side(release, [(job,) for job in releases])), strict=True))
    jobs = [
        (share, job) for share in shares for seed in params.evaluate.seeds
        for job in attack_jobs(released[share].folder, seed, params, cache, f"{method} {share:g}" if learned else method)
    ]  # fmt: skip
    # Longest first, so that the last to finish is a short one: video networks before frame networks.
    jobs.sort(key=lambda entry: entry[1].kind == "cnn2d")
    results = side_by_side(run_attack, [(job,) for _, job in jobs])
    found = [(share, result) for (share, _), result in zip(jobs, results, strict=True)]
    num_blocks = len(params.model.sparsify_before)
    points = []
    for share in shares:
        ratio = share ** (1 / num_blocks) if learned and num_blocks else None
        for seed in params.evaluate.seeds:
            mine = [result for other, result in found if other == share and result.seed == seed]
            action = next(result for result in mine if result.target == "action")
            privacy = tuple(result for result in mine if result.target == "privacy")
            points.append(Point(share if learned else None, ratio, seed, action, privacy))
    return Judgement(method, tuple(points), {share if learned else None: released[share] for share in shares}, shards)


def attack_jobs(released: Path, seed: int, params: Params, cache: Path, label: str) -> list[AttackJob]:
    """The attackers of one release and seed: one on the action, one on privacy of every kind of `evaluate.attack.kinds`."""
    attack = params.evaluate.attack
    common = (seed, attack, params.recognizers, params.clip, cache, label)
    action = AttackJob(released, "action", attack.action_kind, *common)
    return [action, *(AttackJob(released, "privacy", kind, *common) for kind in attack.kinds)]
