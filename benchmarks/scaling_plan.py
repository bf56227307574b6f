"""What a training step takes on many GPUs, as arithmetic: parameters, memory by ZeRO stage, bytes a step, hours and cost.

Nothing here is measured on a GPU. Parameters are counted in the networks that a params file describes, activations in a forward pass
on the CPU; how long a step takes is asked for, and stands as a letter where it isn't known.
"""

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from benchmarks.stand_ins import fresh_game
from stprivacy.config import VP_ATTRIBUTES, Params, VPDataset
from stprivacy.data.annotations_vp import LABELS, read_digits, vp
from stprivacy.data.splits import cut_val
from stprivacy.errors import UserError
from stprivacy.models.anonymizer import Anonymizer
from stprivacy.models.recognizers import NUM_STATISTICS
from stprivacy.training.batches import num_micro_batches
from stprivacy.training.task import Batch, Game

ZERO_STAGES = (0, 1, 2)
BUCKET_VALUES = 500_000_000
"""DeepSpeed's default `reduce_bucket_size`: at stages 1 and 2 a backward pass takes a buffer of so many values, however few there are."""
EXCHANGE_SHARE = 0.1
"""Of a step's time: what the network may cost before a plan calls it too slow."""


# ---------------------------------------------------------------------------------------------------- the networks of a params file


def game_of(params: Params, num_actions: int, num_attributes: int) -> Game:
    """The game of the paper's release that `params` describes, with random weights: a code is trained without adversaries."""
    model = params.for_baseline("stprivacy-tubelets").model
    return fresh_game(model, params.clip, params.train, params.channel, params.recognizers, num_actions, num_attributes)


@dataclass(frozen=True)
class Sizes:
    """What the networks of a game weigh, in parameters, and what the closed-form adversary makes workers tell one another."""

    anonymizer: int
    action: int
    adversaries: int
    frozen: int
    """The reference recognizer, the raw-trained and the random ones."""
    gathered_values: int
    """fp32 values a clip whose rows all workers get: features and attributes; 0 without a closed-form adversary."""
    adversary_steps: int
    value_bytes: int
    """Of a weight, a gradient and an activation: 2 in bf16, 4 in fp32."""

    @classmethod
    def of(cls, game: Game) -> "Sizes":
        networks, train = game.networks, game.train
        frozen = [*networks.raw_trained, *([networks.reference] if networks.reference else [])]
        attacked: list[nn.Module] = []
        if train.game.closed_form.weight:
            attacked = game.closed_form.networks(0, torch.device("cpu"), torch.float32)
            frozen += [network for network in attacked if network not in frozen]
        gathered = sum(cast(nn.Linear, network.head).in_features for network in attacked)
        if train.game.closed_form.weight and train.game.closed_form.statistics:
            gathered += NUM_STATISTICS
        if train.game.closed_form.mask_weight and isinstance(networks.anonymizer, Anonymizer):
            gathered += 2 * networks.anonymizer.num_patches
        return cls(
            anonymizer=_count(networks.anonymizer),
            action=_count(networks.action),
            adversaries=_count(networks.adversaries),
            frozen=sum(_count(network) for network in frozen),
            gathered_values=gathered + (len(game.prior) if gathered else 0),
            adversary_steps=train.game.adversary_steps,
            value_bytes=2 if train.precision == "bf16" else 4,
        )

    @property
    def trained(self) -> int:
        """Parameters of both players."""
        return self.anonymizer + self.action + self.adversaries


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def train_clips(params: Params) -> tuple[int, int, int]:
    """(training clips after val is cut, actions, attributes) of a benchmark whose labels are shipped, as if all its videos were there.

    Raises UserError for another data set, of which only its videos or label files tell.
    """
    dataset = params.dataset
    if not isinstance(dataset, VPDataset):
        raise UserError(f"{dataset.name}: how many clips it trains on isn't known here; give --train-clips, --actions and --attributes")
    with tempfile.TemporaryDirectory() as folder:
        for name in read_digits(LABELS / f"{dataset.kind}.txt", len(VP_ATTRIBUTES)):
            video = Path(folder, f"{name}.avi")
            video.parent.mkdir(exist_ok=True)
            video.touch()
        catalogue = cut_val(vp(dataset.model_copy(update={"source": folder})), dataset.val_share, dataset.seed)
    return len(catalogue.of_split("train")), len(catalogue.actions), len(catalogue.attributes)


# ---------------------------------------------------------------------------------------------------- memory


def state_bytes(num_parameters: int, zero_stage: int, num_workers: int, value_bytes: int) -> dict[str, float]:
    """Bytes a worker keeps for so many trained parameters (ZeRO, arXiv 1910.02054, §3): weights, gradients, AdamW's fp32 values.

    AdamW has two moments a parameter, and an fp32 copy of the weight wherever DeepSpeed steps a copy: always but in fp32 at stage 0.
    """
    copy = 0 if value_bytes == 4 and zero_stage == 0 else 4
    return {
        "weights": float(value_bytes * num_parameters),
        "gradients": value_bytes * num_parameters / (num_workers if zero_stage == 2 else 1),
        "AdamW": (copy + 8) * num_parameters / (num_workers if zero_stage else 1),
    }


def saved_bytes(forward: Callable[[], Tensor]) -> int:
    """Bytes of memory that a forward pass holds for its backward pass, parameters left out; nothing is counted twice."""
    storages: dict[int, int] = {}
    parameters: set[int] = set()

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        if isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter):
            parameters.add(storage.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = forward()  # alive until all is counted, so that no address is used a second time
    total = sum(size for address, size in storages.items() if address not in parameters)
    del value
    return total


def activation_bytes(params: Params, num_actions: int, num_attributes: int) -> int:
    """Bytes a clip of the game's largest pass, the anonymizer player's, as if no tubelet were dropped: an upper bound.

    From forward passes of two clips and of three, on the CPU in the precision of `train`; a GPU's kernels keep about the same.
    """
    model = params.model.model_copy(update={"keep_bias": 50.0})  # against any Gumbel noise
    game = game_of(params.model_copy(update={"model": model}), num_actions, num_attributes)
    dtype, networks, clip = torch.bfloat16 if params.train.precision == "bf16" else torch.float32, game.networks, params.clip
    for network in (networks.anonymizer, networks.action, networks.adversaries, *networks.raw_trained, networks.reference):
        if network is not None:
            network.to(dtype)

    def held(num_clips: int) -> int:
        clips = torch.rand(num_clips, 3, clip.num_frames, clip.size, clip.size)
        actions, attributes = torch.zeros(num_clips, dtype=torch.int64), torch.zeros(num_clips, num_attributes)
        batch = Batch(clips, actions, attributes, samples=tuple(range(num_clips)), step=10**6)
        return saved_bytes(lambda: game.anonymizer_loss(batch)[0])

    return held(3) - held(2)


# ---------------------------------------------------------------------------------------------------- bytes on the network


def ring(num_bytes: float, num_workers: int) -> float:
    """Bytes that each worker sends in a reduce-scatter or an all-gather of `num_bytes`; an all-reduce is one after the other."""
    return (num_workers - 1) / num_workers * num_bytes


def update_bytes(num_bytes: float, zero_stage: int, num_workers: int, num_parts: int = 1, scatter: bool = True) -> float:
    """Bytes that each worker sends in one update of `num_bytes` of weights, by rings.

    Stage 0 all-reduces gradients; 1 and 2 reduce-scatter them and all-gather the stepped weights; 2 does the first for each of
    `num_parts` micro-batches. `scatter` False: gradients are all-reduced there, too, as DeepSpeed's default
    (`use_multi_rank_bucket_allreduce`) has it.
    """
    reductions = (num_parts if zero_stage == 2 else 1) * (1 if zero_stage and scatter else 2)
    return (reductions + (1 if zero_stage else 0)) * ring(num_bytes, num_workers)


def step_bytes(sizes: Sizes, global_batch: int, zero_stage: int, num_workers: int, num_parts: int = 1, scatter: bool = True) -> float:
    """Bytes that each worker sends in a step of the game: both players' updates and the closed-form adversary's features.

    Left out: metrics, gradient norms and overflow flags, a few numbers each.
    """
    players = ((sizes.anonymizer + sizes.action, 1), (sizes.adversaries, sizes.adversary_steps))
    exchanged = sum(
        updates * update_bytes(sizes.value_bytes * count, zero_stage, num_workers, num_parts, scatter) for count, updates in players
    )
    return exchanged + ring(4 * sizes.gathered_values * global_batch, num_workers)


# ---------------------------------------------------------------------------------------------------- the plan


@dataclass(frozen=True)
class Known:
    """What only the machine or its owner can tell; None where nobody has."""

    init_seconds: float | None = None
    game_seconds: float | None = None
    """Of a step on all GPUs of the plan."""
    trial_seconds: float | None = None
    """Of a step of the game on the `sweep.num_workers` GPUs of a trial."""
    node_price: float | None = None
    """Of a node, an hour."""


def plan(params: Params, name: str, gpus: int, nodes: int, data: tuple[int, int, int], known: Known) -> str:
    """The plan as text. `data`: training clips, actions, attributes. Raises UserError where the global batch cannot be shared out."""
    train, num_workers = params.train, gpus * nodes
    if train.global_batch % num_workers:
        raise UserError(f"{name}: train.global_batch = {train.global_batch}: not a multiple of {num_workers} GPUs; change one of them")
    num_clips, num_actions, num_attributes = data
    sizes = Sizes.of(game_of(params, num_actions, num_attributes))
    num_parts = num_micro_batches(train, num_workers)
    per_gpu, updates = train.global_batch // num_workers, "once" if sizes.adversary_steps == 1 else f"{sizes.adversary_steps} times"
    lines = [
        f"{name} on {nodes} node{'s' * (nodes > 1)} of {gpus} GPU{'s' * (gpus > 1)}: arithmetic, nothing was run on a GPU",
        "",
        "parameters",
        *(f"  {label:34}{count:>12,}" for label, count in _counted(sizes, params)),
        "",
        f"a step: {train.global_batch} clips, {per_gpu} a GPU in {num_parts} part(s), {train.precision}; adversaries update {updates}",
        "",
        *_memory(params, sizes, num_workers, per_gpu // num_parts, activation_bytes(params, num_actions, num_attributes)),
        "",
        *_traffic(params, sizes, num_workers, num_parts, known),
        "",
        *_hours(params, num_clips, gpus, nodes, known),
    ]
    return "\n".join(lines)


def _counted(sizes: Sizes, params: Params) -> list[tuple[str, int]]:
    kinds = ", ".join(adversary.kind for adversary in params.train.game.adversaries)
    return [
        (f"anonymizer ({params.model.kind})", sizes.anonymizer),
        (f"action recognizer ({params.train.action_kind})", sizes.action),
        (f"adversaries ({kinds})", sizes.adversaries),
        ("trained, in all", sizes.trained),
        ("frozen recognizers", sizes.frozen),
    ]


def _memory(params: Params, sizes: Sizes, num_workers: int, num_clips: int, a_clip: int) -> list[str]:
    rows: dict[str, list[float]] = {}
    for stage in ZERO_STAGES:
        held = state_bytes(sizes.trained, stage, num_workers, sizes.value_bytes)
        held["frozen recognizers"] = sizes.value_bytes * sizes.frozen
        held[f"activations of {num_clips} clip{'s' * (num_clips > 1)}"] = a_clip * num_clips
        held["DeepSpeed's gradient bucket"] = sizes.value_bytes * BUCKET_VALUES if stage else 0
        held["sum"] = sum(held.values())
        for label, value in held.items():
            rows.setdefault(label, []).append(value)
    return _table("memory a GPU, GB (10⁹ bytes)", rows, 1e9, 3)


def _traffic(params: Params, sizes: Sizes, num_workers: int, num_parts: int, known: Known) -> list[str]:
    batch, stage = params.train.global_batch, params.train.zero_stage
    rows = {
        "rings, as ZeRO says": [step_bytes(sizes, batch, zero, num_workers, num_parts) for zero in ZERO_STAGES],
        "rings, as DeepSpeed does it": [step_bytes(sizes, batch, zero, num_workers, num_parts, scatter=False) for zero in ZERO_STAGES],
    }
    sent = rows["rings, as DeepSpeed does it"][stage]
    gigabits = 8 * sent / EXCHANGE_SHARE / 1e9
    need = f"{gigabits:.1f} / t_game Gbit/s" if known.game_seconds is None else f"{gigabits / known.game_seconds:.1f} Gbit/s"
    return [
        *_table("a GPU sends in a step of the game, MB (10⁶ bytes)", rows, 1e6, 1),
        f"network: {need} each way keep the exchange at {EXCHANGE_SHARE:.0%} of a step (ZeRO {stage}, nothing overlapped);",
        "  a ring crosses a node's border once, so that a node's link carries what one GPU sends",
    ]


def _table(title: str, rows: dict[str, list[float]], unit: float, digits: int) -> list[str]:
    head = f"{title:50}" + "".join(f"{f'ZeRO {stage}':>10}" for stage in ZERO_STAGES)
    return [head, *(f"  {label:48}" + "".join(f"{value / unit:10.{digits}f}" for value in values) for label, values in rows.items())]


def _hours(params: Params, num_clips: int, gpus: int, nodes: int, known: Known) -> list[str]:
    train, sweep, trials = params.train, params.sweep, params.sweep.num_trials * len(params.sweep.seeds)
    epoch = num_clips * train.windows_per_epoch // train.global_batch
    init, game, trial = epoch * train.init.epochs, epoch * train.game.epochs, epoch * (sweep.epochs or train.game.epochs)
    at_once = min(trials, max(1, gpus * nodes // sweep.num_workers))
    rows = math.ceil(trials / at_once)
    shared = f"at most {trials} trials of {sweep.num_workers} GPU(s), {at_once} at once"
    lines = [
        f"steps: {num_clips:,} training clips make {epoch} an epoch; init {init:,}, game {game:,}, a trial of the sweep {trial:,}",
        f"hours of train = ({init:,} · t_init + {game:,} · t_game) / 3600 = {init / 3600:.3f} · t_init + {game / 3600:.3f} · t_game",
        f"hours of sweep = {rows} · {trial:,} · t_trial / 3600 = {rows * trial / 3600:.3f} · t_trial: {shared}",
        f"cost = (hours of train + hours of sweep) · {nodes} · price of a node's hour; attackers aren't in it",
    ]
    seconds = {"t_init": known.init_seconds, "t_game": known.game_seconds, "t_trial": known.trial_seconds}
    missing = [f"{letter} (--{letter[2:]}-seconds)" for letter, value in seconds.items() if value is None]
    if known.node_price is None:
        missing.append("price (--node-price)")
    hours = {}
    if known.init_seconds is not None and known.game_seconds is not None:
        hours["train"] = (init * known.init_seconds + game * known.game_seconds) / 3600
    if known.trial_seconds is not None:
        hours["sweep"] = rows * trial * known.trial_seconds / 3600
    for stage, value in hours.items():
        cost = "" if known.node_price is None else f", cost {value * nodes * known.node_price:.2f}"
        lines.append(f"with what you gave: {value:.2f} hours of {stage}{cost}")
    return lines + ([f"missing: {', '.join(missing)}"] if missing else [])
