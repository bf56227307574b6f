"""A project's folder with a tiny data set and a model that has learned nothing, for tests of pictures and of the study."""

from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from tests.unit.evaluation_files import noise_clips, random_labels, tiny_model, write_dataset

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"train": 12, "val": 3, "test": 24}
MAGENTA = (255, 0, 255)
"""Of raw clips: no colour of a sheet, and none that a release here has."""


def make_project(folder: Path, kind: str = "vp-synth", log_raw_clips: bool = False, persons: bool = False) -> Path:
    """params.yaml, data/shards/tiny and models/anonymizer below `folder`; clips of 4 frames of 16 × 16."""
    shipped = "vp-synth-tiny" if kind == "vp-synth" else "weizmann"
    params = YAML(typ="safe", pure=True).load((ROOT / "params" / f"{shipped}.yaml").read_text())
    params["dataset"]["name"] = "tiny"
    params["clip"] |= {"num_frames": 4, "size": 16}
    params["evaluate"] |= {"methods": ["blur", "stprivacy"], "kept_shares": [0.5, 0.25]}
    params["evaluate"]["attack"] |= {"num_clips": 1, "num_crops": 1}
    params["baselines"]["methods"] = []
    params["tracking"] = {"log_raw_clips": log_raw_clips}
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "params.yaml", "w") as file:
        YAML(typ="safe", pure=True).dump(params, file)
    actions, attributes = random_labels(SIZES)
    if persons:
        attributes = {split: np.eye(2, dtype=int)[np.arange(count) // 3 % 2] for split, count in SIZES.items()}
    clips = noise_clips(SIZES)
    clips["test"][:] = np.array(MAGENTA, np.uint8)
    made = write_dataset(folder / "made", clips, actions, attributes)
    (folder / "data" / "shards").mkdir(parents=True)
    made.rename(folder / "data" / "shards" / "tiny")
    tiny_model(folder / "models" / "anonymizer")
    return folder
