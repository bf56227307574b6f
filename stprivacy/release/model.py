"""Which anonymizer a release is made with: a folder, a version of the registry, or, unnamed, the best that there is."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from stprivacy.config import PARAMS_FILE, Channel, Register, load_params
from stprivacy.errors import UserError
from stprivacy.models.checkpoints import CONFIG, WEIGHTS, load_anonymizer
from stprivacy.release.clips import Releasing

LOCAL_MODEL = Path("models/anonymizer")
REGISTRY_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))?")


@dataclass(frozen=True)
class ReleaseModel:
    """An anonymizer, the channel behind it, and where they come from."""

    anonymizer: Releasing
    channel: Channel
    origin: str
    """For people: a folder, or a version with the alias that led to it."""
    content: str
    """`content_hash` of its files."""
    trained_on: str
    """The data set's name; empty where its config.json doesn't say."""


def registered_name() -> str:
    """The registered model's name: params.yaml's `register.name` in a project's folder, else the default."""
    return load_params().registering.name if PARAMS_FILE.exists() else Register().name


def foreign_data(model: ReleaseModel) -> str | None:
    """In a project's folder, the warning that a model was trained on another data set than params.yaml's; else None."""
    here = load_params().dataset.name if PARAMS_FILE.exists() else model.trained_on
    if model.trained_on == here:
        return None
    return f"{model.origin} was trained on {model.trained_on or 'unnamed data'}, params.yaml is of {here}; --model names another one"


def find_model(named: str | None) -> ReleaseModel:
    """The model that was `named`: a folder, `models:/name@alias`, `models:/name/version` or `models:/name`.

    Without an alias or version, champion is taken, else candidate. Unnamed, it is the registry's, else `models/anonymizer` of this
    folder. Raises UserError when it is not there, or the registry cannot be asked.
    """
    from stprivacy.release import registry

    if named is not None and not named.startswith("models:"):
        return load_folder(Path(named), named)
    if named is None:
        version = registry.released_version(registered_name())
        if version is None and not LOCAL_MODEL.is_dir():
            raise UserError(f"no model: no champion or candidate in the registry, no {LOCAL_MODEL}; run `dvc repro` or give --model")
        if version is None:
            return load_folder(LOCAL_MODEL, str(LOCAL_MODEL))
    else:
        match = REGISTRY_URI.fullmatch(named)
        if match is None:
            raise UserError(f"--model {named}: expected models:/NAME@ALIAS, models:/NAME/VERSION or models:/NAME")
        version = registry.named_version(match["name"], match["alias"], match["version"])
    with registry.downloaded(version) as folder:
        model = load_folder(folder, version.origin)
    if version.tags.get("content_hash", model.content) != model.content:
        raise UserError(f"{version.origin}: its files are not those that were registered (content_hash); register it anew")
    return model


def load_folder(folder: Path, origin: str) -> ReleaseModel:
    """The model in a folder, on the GPU if there is one. Raises UserError on a missing or foreign file."""
    anonymizer, channel = load_anonymizer(folder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trained_on = config_at(folder).get("dataset", "")
    return ReleaseModel(anonymizer.to(device).requires_grad_(False), channel, origin, content_hash(folder), trained_on)


def config_at(folder: Path, keep_ratio: float | None = None) -> dict:
    """`config.json` of a model's folder, with another keep ratio as the model's own if one is given."""
    config: dict = json.loads((folder / CONFIG).read_text())
    return config if keep_ratio is None else config | {"model": config["model"] | {"keep_ratio": keep_ratio}}


def content_hash(folder: Path, keep_ratio: float | None = None) -> str:
    """16 digits over all that a release depends on: the weights' bytes, keep ratio, architecture, channel and clip."""
    config = config_at(folder, keep_ratio)
    with open(folder / WEIGHTS, "rb") as weights:
        digest = hashlib.file_digest(weights, "sha256")
    digest.update(json.dumps({name: config[name] for name in ("model", "channel", "clip")}, sort_keys=True).encode())
    return digest.hexdigest()[:16]
