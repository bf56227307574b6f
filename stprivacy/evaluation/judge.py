"""Judge one method: release every clip, attack the releases at each kept share and seed. `results.py` writes what was found."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Protocol, get_args

from stprivacy.config import Attack, AttackerKind, Dataset, NetworkKind, Params
from stprivacy.data.boxes import DETECTORS, resolve_boxes
from stprivacy.evaluation.attackers import run_attack
from stprivacy.evaluation.frame_level import ONE_BY_ONE, FrameLevel, FrameLevelJob
from stprivacy.evaluation.inversion import Inversion, InversionJob
from stprivacy.evaluation.jobs import AttackJob, AttackResult
from stprivacy.evaluation.latents import KINDS, LatentJob
from stprivacy.evaluation.mask import MaskJob
from stprivacy.evaluation.readings import Reading, ensemble, neighbours, raw_trained
from stprivacy.evaluation.reidentification import Reidentification, ReidentificationJob
from stprivacy.evaluation.released import Released, ReleaseJob, release
from stprivacy.models.anonymizers import LEARNED
from stprivacy.models.baselines import BOXED

NOTHING_DROPPED = 1.0
"""The kept share of a method that drops no tubelets."""
BYSTANDER, ACTION = "action-raw-trained", "action.safetensors"
"""Who reads the action without ever having seen a release, and its weights among the recognizers."""
NETWORKS: tuple[AttackerKind, ...] = get_args(NetworkKind)
"""Kinds of attackers that evaluate-raw keeps as recognizers."""
QUICK = ("cnn2d", "frames", "linear")
"""Kinds of attackers that are done sooner than the others, each sooner than the one before."""
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
    """All privacy attackers: the fresh ones in the order of `evaluate.attack.kinds`, then those of `evaluate.attack.extra`."""
    inversion: Inversion | None = None
    reidentification: Reidentification | None = None
    frame_level: FrameLevel | None = None
    bystander: AttackResult | None = None
    """The action recognizer of raw clips on this release."""

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


@dataclass(frozen=True)
class Extra:
    """An attack beside the fresh ones, and whose it is."""

    kept_share: float
    seed: int | None
    """None: it is done once, and counts at every seed."""
    job: "Job"

    def belongs_to(self, kept_share: float, seed: int) -> bool:
        return self.kept_share == kept_share and self.seed in (None, seed)


class Job(Protocol):
    """A piece of work that knows where its result is kept."""

    def run(self) -> Any: ...


def run_job(job: Job) -> Any:
    """For `side_by_side`, which wants a function by its name."""
    return job.run()


def judge(
    method: str, params: Params, shards: Path, model: Path, cache: Path, side_by_side: SideBySide, recognizers: Path | None = None
) -> Judgement:
    """Release and attack `method` at every kept share and seed of params.

    `model`: the folder of the learned anonymizer (read for a learned method alone). `cache`: where releases and fits are kept, so
    that a killed stage goes on. `recognizers`: models/recognizers, which raw-trained attacks and inversion read; None for raw clips
    themselves. Raises UserError for an unknown method.
    """
    cache, attack = cache.absolute(), params.evaluate.attack
    num_blocks = params.model.num_sparsifications if method in LEARNED else 0
    shares = params.evaluate.kept_shares if num_blocks else (NOTHING_DROPPED,)
    common = shards.absolute(), model.absolute(), params.clip, params.channel, attack, cache
    releases = [ReleaseJob(method, share, *common, *_boxes(params, cache) if method in BOXED else ()) for share in shares]
    if method != "raw" and compares_with_raw(attack):
        releases.append(ReleaseJob("raw", NOTHING_DROPPED, *common))  # of its own views; found in the cache where evaluate-raw left it
    folders = side_by_side(release, [(job,) for job in releases])
    released = dict(zip(shares, map(Released, folders), strict=False))
    jobs = [
        (share, job) for share in shares for seed in params.evaluate.seeds
        for job in attack_jobs(released[share].folder, seed, params, cache, f"{method} {share:g}" if num_blocks else method)
    ]  # fmt: skip
    # Longest first, so that the last to finish is a short one: video networks before frame networks.
    jobs.sort(key=lambda entry: QUICK.index(entry[1].kind) if entry[1].kind in QUICK else -1)
    results = side_by_side(run_attack, [(job,) for _, job in jobs])
    fresh = [(share, job, result) for (share, job), result in zip(jobs, results, strict=True)]
    beside = extra_jobs(fresh, folders[-1], params, recognizers.absolute() if recognizers else None)
    found = side_by_side(run_job, [(extra.job,) for extra in beside]) if beside else []
    points = []
    for share, seed in product(shares, params.evaluate.seeds):
        mine = [result for other, job, result in fresh if (other, job.seed) == (share, seed)]
        extras = [result for extra, result in zip(beside, found, strict=True) if extra.belongs_to(share, seed)]
        ratio = share ** (1 / num_blocks) if num_blocks else None
        points.append(_point(share if num_blocks else None, ratio, seed, mine, extras, released[share], "ensemble" in attack.extra))
    return Judgement(method, tuple(points), {share if num_blocks else None: released[share] for share in shares}, shards)


def _boxes(params: Params, cache: Path) -> tuple[str, Dataset]:
    """`evaluate.boxes` for a release on any node, and the data set. Raises UserError for a missing file, before anything is released."""
    source = params.evaluate.boxes
    file = resolve_boxes(source, params.dataset, cache)
    return (source if source in (*DETECTORS, "rendered") else str(Path(file).absolute())), params.dataset


def attack_jobs(released: Path, seed: int, params: Params, cache: Path, label: str) -> list[AttackJob]:
    """The fresh attackers of one release and seed: one on the action, one on privacy of every kind of `evaluate.attack.kinds`."""
    attack = params.evaluate.attack
    common = (seed, attack, params.recognizers, params.clip, cache, label)
    target = Released(released).labels("train").action_task.target
    action = AttackJob(released, target, attack.action_kind, *common)
    return [action, *(AttackJob(released, "privacy", kind, *common) for kind in attack.kinds)]


def compares_with_raw(attack: Attack) -> bool:
    """Does an attack need raw clips beside the released ones?"""
    return bool({"inversion", "reidentification"} & set(attack.extra))


def extra_jobs(fresh: Sequence[tuple[float, AttackJob, AttackResult]], raw: Path, params: Params, recognizers: Path | None) -> list[Extra]:
    """The attacks of `evaluate.attack.extra` that are work, for every kept share; the ensemble is none.

    `fresh`: the fits, each with its kept share. `raw`: the release of raw clips. Whatever needs raw-trained recognizers is left out
    where there are none, the attackers of mask and latents where there is none of these, and re-identification where clips are not each
    of one person. Where frames have labels, single frames are attacked as well, at every seed.
    """
    attack = params.evaluate.attack
    jobs: list[Extra] = []
    first = params.evaluate.seeds[0]
    shares = list(dict.fromkeys(share for share, *_ in fresh))
    networks = [entry for entry in fresh if entry[1].target == "privacy" and entry[1].kind != "linear"]
    for share in shares:
        job = next(job for other, job, _ in fresh if other == share and job.seed == first)  # what all attacks on this release have alike
        common = job.released, job.recognizers, job.clip
        if recognizers and "raw-trained" in attack.extra:
            for kind, weights in raw_trained(recognizers, NETWORKS).items():
                reading = Reading(f"privacy-raw-trained-{kind}", "raw-trained", kind, weights, first, *common)
                jobs.append(Extra(share, None, reading))
            if (recognizers / ACTION).exists():
                target = Released(job.released).labels("train").action_task.target
                jobs.append(
                    Extra(share, None, Reading(BYSTANDER, "raw-trained", attack.action_kind, recognizers / ACTION, first, *common, target))
                )
        if "cross-release" in attack.extra:
            for other, theirs, result in networks:
                if other in neighbours(share, shares) and result.weights:
                    name = f"privacy-cross-release-{other:g}-{theirs.kind}"
                    reading = Reading(name, "cross-release", theirs.kind, result.weights, theirs.seed, *common)
                    jobs.append(Extra(share, theirs.seed, reading))
        if "mask" in attack.extra and Released(job.released).drops_tubelets:
            jobs.append(Extra(share, None, MaskJob(job.released, first)))
        if "latents" in attack.extra and Released(job.released).has_code:
            jobs += [Extra(share, None, LatentJob(job.released, first, kind)) for kind in KINDS]
        if recognizers and "inversion" in attack.extra:
            fit = replace(job, target="privacy", kind="cnn3d")
            jobs.append(Extra(share, None, InversionJob(fit, raw, recognizers, NETWORKS, attack.action_kind)))
        if "reidentification" in attack.extra and Released(job.released).labels("train").one_identity_each:
            jobs.append(Extra(share, None, ReidentificationJob(replace(job, target="privacy", kind=attack.action_kind), raw)))
        if Released(job.released).frame_labels("train"):
            mine = [entry[1:] for entry in fresh if entry[0] == share]
            bystander = raw_trained(recognizers, ONE_BY_ONE) if recognizers and "raw-trained" in attack.extra else {}
            jobs += [Extra(share, seed, _frame_level(seed, mine, bystander)) for seed in params.evaluate.seeds]
    return sorted(jobs, key=lambda extra: isinstance(extra.job, (Reading, MaskJob, LatentJob)))  # the long ones first


def _frame_level(seed: int, fresh: list[tuple[AttackJob, AttackResult]], bystander: dict[AttackerKind, Path]) -> FrameLevelJob:
    """The attack on single frames of a release; of its `fresh` attackers on clips, and of raw-trained ones, some answer frames, too."""
    mine = [(job, result) for job, result in fresh if job.seed == seed]
    others = [
        (result.name, job.kind, result.weights) for job, result in mine
        if job.target == "privacy" and job.kind in ONE_BY_ONE and result.weights
    ]  # fmt: skip
    others += [(f"privacy-raw-trained-{kind}", kind, weights) for kind, weights in bystander.items()]
    return FrameLevelJob(replace(mine[0][0], target="privacy", kind="cnn2d"), tuple(others))


def _point(
    share: float | None, ratio: float | None, seed: int, fresh: list[AttackResult], extras: list[Any], released: Released, mean: bool
) -> Point:
    """Put together what was found at one kept share and seed; `mean`: the ensemble of the fresh privacy attackers, too."""
    action = next(result for result in fresh if result.target != "privacy")
    privacy = [result for result in fresh if result.target == "privacy"]
    beside = [ensemble(privacy, released)] if mean and len(privacy) > 1 else []
    others = [found for found in extras if isinstance(found, AttackResult)]
    beside += [found for found in others if found.target == "privacy"]
    bystander = next((found for found in others if found.target != "privacy"), None)
    inversion = next((found for found in extras if isinstance(found, Inversion)), None)
    beside += inversion.readings if inversion else ()
    again = next((found for found in extras if isinstance(found, Reidentification)), None)
    frames = next((found for found in extras if isinstance(found, FrameLevel)), None)
    return Point(share, ratio, seed, action, (*privacy, *beside), inversion, again, frames, bystander)
