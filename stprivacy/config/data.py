"""Sections about data: which videos, which clips of them, how they are decoded and packed."""

from typing import Annotated, Literal

from pydantic import Field

from stprivacy.config.base import Count, Positive, Section, Share

VP_ATTRIBUTES = ("skin_color", "face", "gender", "nudity", "relationship")


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


class CelebVDataset(_Dataset):
    """CelebV-HQ: 35,666 face clips; the expression is to be recognised, some looks are to be hidden. Labels and clips are downloaded."""

    kind: Literal["celebv-hq"]
    annotations: str
    """The published label file, celebvhq_info.json."""
    hidden: Annotated[tuple[str, ...], Field(min_length=1)] = ("young", "pointy_nose", "male", "rosy_cheeks", "brown_hair")
    """Which of the 40 appearance attributes are private; the paper's five."""
    train_share: Share = 0.6
    """The paper's random 60/40 division, drawn from `seed` over source videos, so that no video is on both sides."""


class PHVUDataset(_Dataset):
    """P-HVU: videos of HVU that have tags of an action, an object and a scene; the action is to be recognised, the rest to be hidden."""

    kind: Literal["p-hvu"]
    annotations: str
    """Folder of HVU's three files: HVU_Train_V1.0.csv, HVU_Val_V1.0.csv and HVU_Tags_Categories_V1.0.csv."""
    hidden: Annotated[tuple[Literal["object", "scene"], ...], Field(min_length=1)] = ("object", "scene")
    """Categories whose tags are private attributes."""
    least_videos: Annotated[int, Field(ge=1)] = 100
    """A tag with fewer training videos is neither an action nor an attribute."""


class FolderDataset(_Dataset):
    """Any folder of videos with a CSV of labels.

    Its columns: file, action, split (train, val or test), group (optional), then one 0/1 column an attribute.
    """

    kind: Literal["folder"]
    labels: str
    """Path of the CSV file."""


Dataset = Annotated[
    SyntheticDataset | VPDataset | PADataset | WeizmannDataset | CelebVDataset | PHVUDataset | FolderDataset, Field(discriminator="kind")
]


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
