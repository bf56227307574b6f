"""Every number that changes a result: `params.yaml` as frozen, validated classes, one a section.

A function takes the section that it needs, never the whole `Params`. What depends on the machine and not on the
experiment (addresses, worker counts) comes from the environment, through `Environment`.
"""

import difflib
import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stprivacy.errors import UserError

PARAMS_FILE = Path("params.yaml")
VP_ATTRIBUTES = ("skin_color", "face", "gender", "nudity", "relationship")

Share = Annotated[float, Field(ge=0, le=1)]
KeepRatio = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of params.yaml: immutable, unknown keys refused, numbers finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# ---------------------------------------------------------------------------------------------------- data sets


class _Dataset(Section):
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """Names the folders `data/clips/<name>` and `data/shards/<name>`, and the MLflow experiments."""
    source: str
    """Where the videos come from: a folder of video files, or the renderer's own file for VP-Synth (a DVC dependency)."""
    val_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training videos that is withheld as `val`, cut by whole groups of videos."""
    seed: int = 0
    """Draws the groups of `val` (and renders VP-Synth)."""


class SyntheticDataset(_Dataset):
    """VP-Synth: rendered articulated people, 8 actions, the five VP attributes."""

    kind: Literal["vp-synth"]
    num_train: Annotated[int, Field(ge=16)] = 1600
    """Rendered videos of the training split; `val` is cut from them."""
    num_test: Annotated[int, Field(ge=16)] = 400
    num_frames: Annotated[int, Field(ge=4)] = 16
    """Frames of a rendered mp4 file, before the frame step."""
    size: Annotated[int, Field(ge=32)] = 64
    """Height and width of a rendered frame, in pixels."""


class VPDataset(_Dataset):
    """VP-HMDB51 or VP-UCF101: labels are shipped, the person supplies the videos."""

    kind: Literal["vp-hmdb51", "vp-ucf101"]
    split: Literal[1, 2, 3] = 1
    """Official train/test split."""


class PADataset(_Dataset):
    """PA-HMDB51: 515 HMDB51 videos with frame-wise labels, which the person downloads (research licence)."""

    kind: Literal["pa-hmdb51"]
    annotations: str
    """Folder of the `PrivacyAttributes/*.json` files."""
    train_share: Share = 0.6
    """The paper's random 60/40 division, drawn from `seed` within each action."""


class WeizmannDataset(_Dataset):
    """Weizmann: 90 real videos, 10 actions; the private attributes are the 9 identities."""

    kind: Literal["weizmann"]
    split: Annotated[int, Field(ge=0, le=4)] = 0
    """k: test holds the cells with (person + action) mod 5 = k."""


class FolderDataset(_Dataset):
    """Any folder of videos with a CSV of labels: columns file, action, split (train, val or test), group (optional), then one 0/1 column an attribute."""

    kind: Literal["folder"]
    labels: str
    """Path of the CSV file."""


Dataset = Annotated[SyntheticDataset | VPDataset | PADataset | WeizmannDataset | FolderDataset, Field(discriminator="kind")]


class Clip(Section):
    """The shape of a clip as every model sees it: (3, num_frames, size, size), every frame_step-th frame of the video."""

    num_frames: Count = 8
    size: Count = 48
    frame_step: Count = 2
    flip: bool = False
    """Mirror training clips at random. Off where left and right are different actions (VP-Synth)."""


class Preprocess(Section):
    short_side: Annotated[int, Field(ge=16)] = 48
    """Frames are resized so that the shorter side has this many pixels."""
    timeout_s: Positive = 30
    """Time limit for decoding one video; beyond it the video is quarantined."""
    failure_budget: Share = 0.02
    """The stage stops when a larger share of the videos cannot be decoded."""
    num_processes: Count = 2


class Shard(Section):
    max_megabytes: Positive = 64
    """A tar shard is closed when it has grown beyond this size."""


# ---------------------------------------------------------------------------------------------------- networks


class Model(Section):
    """The STPrivacy anonymizer (paper §3): a video transformer with sparsification before some of its blocks."""

    tubelet: tuple[Count, Count, Count] = (2, 8, 8)
    """Frames, rows and columns of a tubelet (δT, δH, δW)."""
    width: Count = 64
    """Token dimension D."""
    depth: Count = 4
    """Transformer blocks in all; those after the last sparsification are the anonymization block."""
    num_heads: Count = 4
    mlp_ratio: Positive = 2
    sparsify_before: tuple[Annotated[int, Field(ge=0)], ...] = (1, 2)
    """Blocks (counted from 0) before which a sparsification decision is taken; empty for none."""
    keep_ratio: KeepRatio = 0.8367
    """r: share of a slice's tokens that one sparsification keeps (the paper's α); M of them leave r^M."""
    keep_bias: float = 2.0
    """Initial bias of the scorer towards keeping; the paper has 0."""
    logit_scale: Positive = 4.0
    """The scorer's logits are multiplied by this; the paper has 1."""
    input_mean: float = 0.5
    input_std: Positive = 0.25
    """The embedding sees (clip − mean) / std."""
    final_norm: bool = False
    """LayerNorm before the linear head, as in the paper; off for the identity start, which has to be linear."""
    identity_start: bool = True
    """Embedding and head begin as the principal components of tubelets and residual branches at 0: release = input."""

    @model_validator(mode="after")
    def _blocks_fit(self) -> "Model":
        late = [block for block in self.sparsify_before if block >= self.depth]
        if late:
            raise ValueError(
                f"sparsify_before names block {late[0]}, but depth {self.depth} has blocks 0 to {self.depth - 1}; "
                f"raise depth to at least {max(late) + 1} or take earlier blocks"
            )
        if list(self.sparsify_before) != sorted(set(self.sparsify_before)):
            raise ValueError("sparsify_before must rise without repeats; for example [1, 2]")
        if self.width % self.num_heads:
            raise ValueError(
                f"width {self.width} is not a multiple of num_heads {self.num_heads}; take {self.num_heads * (self.width // self.num_heads + 1)}"
            )
        if self.identity_start and self.final_norm:
            raise ValueError("identity_start needs final_norm: false, since a LayerNorm cannot be undone by the head")
        return self

    @property
    def kept_share(self) -> float:
        """r^M: the share of tubelets that is left after all sparsification blocks."""
        return self.keep_ratio ** len(self.sparsify_before)


class Channel(Section):
    """The last step of release: bound to [0, 1], noise on kept tubelets, dropped tubelets filled, uint8."""

    noise: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Standard deviation of the Gaussian noise, in units of the pixel range [0, 1]."""
    fill: Share = 0.0
    """Value of every pixel of a dropped tubelet."""


NetworkKind = Literal["cnn3d", "cnn2d", "vit"]


class Recognizers(Section):
    """Sizes of the recognizers, adversaries and attackers; the kinds are named where they are used."""

    cnn_width: Count = 16
    """Channels of the first convolution; the last has four times as many."""
    vit_width: Count = 384
    vit_depth: Count = 12
    vit_num_heads: Count = 6
    vit_tubelet: tuple[Count, Count, Count] = (2, 16, 16)


# ---------------------------------------------------------------------------------------------------- the game


class InitPhase(Section):
    """Phase 1: L_spars + L_action (+ reconstruction of kept tubelets); no adversary yet."""

    epochs: Count = 3
    learning_rate: Positive = 1e-3
    action_weight: Weight = 1.0
    reconstruction_weight: Weight = 10.0
    full_steps: Annotated[int, Field(ge=0)] = 30
    """First steps without any sparsification."""
    ease_steps: Annotated[int, Field(ge=0)] = 100
    """Steps over which the target ratio then falls from 1 to r."""


class Adversary(Section):
    kind: NetworkKind = "cnn3d"
    start: Literal["raw", "fresh"] = "raw"
    """Start from the recognizer that evaluate-raw trained on raw clips, or from nothing."""
    learning_rate: Positive = 2e-3
    replay: Annotated[int, Field(ge=0)] = 30
    """Past releases (global batches) that its later steps draw from; 0 for none."""


class ClosedForm(Section):
    """Ridge regression from features to attributes within the global batch, leave-one-out; its R² is penalised."""

    weight: Weight = 10.0
    ridge: Positive = 0.1
    random_kinds: tuple[NetworkKind, ...] = ("cnn3d", "cnn2d")
    """Random recognizers, drawn anew each step, whose features are attacked."""
    raw_trained: bool = True
    """Also attack the features of the frozen raw-trained recognizers."""


class Game(Section):
    """Phase 2: anonymizer player against adversary player (paper §3.4)."""

    epochs: Count = 8
    learning_rate: Positive = 5e-4
    decay_from: Share = 0.6
    """Share of the steps after which the anonymizer's rate falls linearly to a tenth; `schedule: cosine` ignores it."""
    ramp_steps: Annotated[int, Field(ge=0)] = 50
    """Steps over which the privacy terms grow to their weight."""
    objective: Literal["entropy", "prior", "negative"] = "entropy"
    """Privacy objective: BCE towards 0.5, BCE towards the attribute's share of training clips, or −BCE as in the paper."""
    reference_weight: Weight = 1.0
    """Weight of the frozen reference recognizer's cross-entropy."""
    adversaries: tuple[Adversary, ...] = (Adversary(), Adversary(start="fresh"), Adversary(kind="cnn2d"))
    adversary_steps: Count = 4
    """Steps of the adversary player after each step of the anonymizer player."""
    closed_form: ClosedForm = ClosedForm()


class Train(Section):
    """The adversarial training (Ray Train, one engine a player)."""

    seed: int = 0
    privacy_weight: Weight = 15.0
    action_weight: Weight = 1.0
    ratio_weight: Weight = 8.0
    """Weight of the ratio loss (eq. 7)."""
    polarisation_weight: Weight = 0.1
    """Weight of 4p(1 − p), which keeps the keep probabilities away from a coin flip."""
    action_kind: NetworkKind = "cnn3d"
    action_learning_rate: Positive = 1e-3
    weight_decay: Weight = 0.01
    betas: tuple[Share, Share] = (0.9, 0.99)
    gradient_clip: Weight = 1.0
    """Largest gradient norm of the anonymizer player; 0 for no limit."""
    schedule: Literal["decay", "cosine"] = "decay"
    init: InitPhase = InitPhase()
    game: Game = Game()
    global_batch: Annotated[int, Field(ge=2)] = 24
    """Clips of one step over all workers; the number of workers does not change the result."""
    micro_batch: Count = 24
    """Most clips that a worker runs at once; the rest is gradient accumulation."""
    num_workers: Count = 2
    """Ray Train workers (STPRIVACY_NUM_WORKERS overrides)."""
    engine: Literal["deepspeed", "torch"] = "deepspeed"
    zero_stage: Literal[0, 1, 2] = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    loader_processes: Annotated[int, Field(ge=0)] = 0
    """Processes that read clips ahead, per worker; 0 reads in the training process."""
    warm_start: str | None = None
    """A timm ViT or an authors' state dict (.safetensors) to start the anonymizer from."""

    @model_validator(mode="after")
    def _engine_fits(self) -> "Train":
        if self.engine == "torch" and self.precision == "bf16":
            raise ValueError("precision bf16 needs engine: deepspeed; the torch engine is fp32")
        return self


# ---------------------------------------------------------------------------------------------------- evaluation


class Attack(Section):
    """How a fresh attacker is trained on released training clips."""

    kinds: Annotated[tuple[NetworkKind, ...], Field(min_length=1)] = ("cnn3d", "cnn2d")
    """Privacy attackers; the strongest on val counts."""
    action_kind: NetworkKind = "cnn3d"
    min_epochs: Count = 12
    max_epochs: Count = 24
    patience: Count = 4
    """Epochs without a better val score after which an attacker stops (never before min_epochs)."""
    learning_rate: Positive = 3e-3
    weight_decay: Weight = 0.01
    batch: Count = 32
    train_windows: Count = 1
    """Windows of each training video that are released and learned from."""
    num_clips: Count = 1
    num_crops: Annotated[int, Field(ge=1, le=3)] = 1
    """Views of a val or test video whose predictions are averaged (the paper: 5 × 3)."""


class Evaluate(Section):
    methods: Annotated[tuple[str, ...], Field(min_length=1)] = ("downsample-2", "downsample-4", "blur", "stprivacy")
    kept_shares: Annotated[tuple[KeepRatio, ...], Field(min_length=1)] = (0.7, 0.4)
    """Kept shares at which the one trained model is judged, attackers fresh at each."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    """Seeds of the attackers."""
    attack: Attack = Attack()


class Tracking(Section):
    log_raw_clips: bool = False
    """Put pictures of raw clips on the tracking server, too. VP-Synth's are always shown: nobody is in them."""


class Params(Section):
    """The whole of params.yaml."""

    dataset: Dataset
    clip: Clip
    preprocess: Preprocess
    shard: Shard
    model: Model
    channel: Channel
    recognizers: Recognizers
    train: Train
    evaluate: Evaluate
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _sections_fit(self) -> "Params":
        frames, rows, columns = self.model.tubelet
        for key, size, step in (
            ("clip.num_frames", self.clip.num_frames, frames),
            ("clip.size", self.clip.size, rows),
            ("clip.size", self.clip.size, columns),
        ):
            if size % step:
                raise ValueError(f"{key} {size} is not a multiple of model.tubelet's {step}; take {step * (size // step + 1)}")
        for adversary in self.train.game.adversaries:
            if adversary.start == "raw" and adversary.kind not in self.evaluate.attack.kinds:
                raise ValueError(
                    f"train.game.adversaries: {adversary.kind} starts from a raw recognizer, but evaluate.attack.kinds trains none; "
                    f"add {adversary.kind} there or set start: fresh"
                )
        if self.train.action_kind != self.evaluate.attack.action_kind:
            raise ValueError(
                f"train.action_kind {self.train.action_kind} starts from the raw recognizer of evaluate.attack.action_kind "
                f"{self.evaluate.attack.action_kind}; set both alike"
            )
        if self.preprocess.short_side < self.clip.size:
            raise ValueError(
                f"preprocess.short_side {self.preprocess.short_side} is below clip.size {self.clip.size}; raise it to at least {self.clip.size}"
            )
        return self


# ---------------------------------------------------------------------------------------------------- reading


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and validate a params file (YAML 1.2, so that 1e-4 is a number).

    Raises UserError with one line: file, key, value, what is wrong and the mend.
    """
    try:
        raw = YAML(typ="safe", pure=True).load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run in the project's folder, or `stprivacy params use vp-synth` makes one") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}; mend the line named") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected sections such as `train:`; see params/vp-synth.yaml")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{path}: {_first_problem(error)}") from None


def _first_problem(error: ValidationError) -> str:
    """The first of a validation's problems as `key = value: what is wrong; the mend`."""
    problem = error.errors()[0]
    # The tag of a discriminated union stands in the location like a key; it is none.
    tags = {"vp-synth", "vp-hmdb51", "vp-ucf101", "pa-hmdb51", "weizmann", "folder"}
    location = [str(part) for part in problem["loc"] if part not in tags]
    key, value = ".".join(location), problem.get("input")
    if problem["type"] == "extra_forbidden":
        known = sorted(_known_keys(location[:-1]))
        near = difflib.get_close_matches(location[-1], known, n=1)
        return f"{key} = {value!r}: unknown key; " + (f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known)}")
    if problem["type"] == "missing":
        return f"{key}: missing; add it (params/vp-synth.yaml shows every key)"
    message = problem["msg"].removeprefix("Value error, ")
    shown = f" = {value!r}" if not isinstance(value, dict) and problem["type"] != "value_error" else ""
    return f"{key}{shown}: {message}" if key else message


def _known_keys(location: list[str]) -> set[str]:
    """Field names of the section at a location, for suggestions."""
    if location[:1] == ["dataset"]:
        kinds = (SyntheticDataset, VPDataset, PADataset, WeizmannDataset, FolderDataset)
        return {name for kind in kinds for name in kind.model_fields}
    section: type[BaseModel] = Params
    for part in location:
        annotation = section.model_fields[part].annotation if part in section.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return set(Adversary.model_fields) if "adversaries" in location else set()
        section = annotation
    return set(section.model_fields)


def config_hash(*sections: BaseModel | dict | str) -> str:
    """A 12-digit hash of configuration sections: the name of a run and of its folder under `.cache/stprivacy`."""
    plain = [section.model_dump(mode="json") if isinstance(section, BaseModel) else section for section in sections]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


class Environment(BaseModel):
    """What the environment may say (DESIGN §7): addresses and sizes of the machine, never of the experiment."""

    model_config = ConfigDict(frozen=True)

    tracking_uri: str = "sqlite:///mlflow.db"
    ray_address: str | None = None
    num_workers: int | None = None
    dvc_stage: str | None = None

    @classmethod
    def read(cls) -> "Environment":
        """Read os.environ. Raises UserError when STPRIVACY_NUM_WORKERS is no positive number."""
        workers = os.environ.get("STPRIVACY_NUM_WORKERS")
        if workers is not None and not (workers.isdigit() and int(workers) > 0):
            raise UserError(f"STPRIVACY_NUM_WORKERS = {workers!r}: must be a whole number from 1; unset it or mend it")
        return cls(
            tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db",
            ray_address=os.environ.get("RAY_ADDRESS"),
            num_workers=int(workers) if workers else None,
            dvc_stage=os.environ.get("DVC_STAGE"),
        )
