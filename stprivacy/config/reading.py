"""Reading params.yaml and the environment, with messages that name the key and say the mend."""

import difflib
import hashlib
import json
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stprivacy.config.data import CelebVDataset, FolderDataset, PADataset, PHVUDataset, SyntheticDataset, VPDataset, WeizmannDataset
from stprivacy.config.params import Params
from stprivacy.config.training import Adversary, Range
from stprivacy.errors import UserError

PARAMS_FILE = Path("params.yaml")


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
    # A misspelt key is why another one is missing; and of a value that may be a list or a range, the form not meant is no problem.
    rank = {"extra_forbidden": 0, "tuple_type": 2, "model_type": 2}
    problem = min(error.errors(), key=lambda problem: rank.get(problem["type"], 1))
    # The tag of a union's member stands in the location like a key; it is none.
    tags = {"vp-synth", "vp-hmdb51", "vp-ucf101", "pa-hmdb51", "weizmann", "celebv-hq", "p-hvu", "folder"}
    location = [str(part) for part in problem["loc"] if part not in tags and "[" not in str(part)]
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
        kinds = (SyntheticDataset, VPDataset, PADataset, WeizmannDataset, CelebVDataset, PHVUDataset, FolderDataset)
        return {name for kind in kinds for name in kind.model_fields}
    section: type[BaseModel] = Params
    for part in location:
        annotation = section.model_fields[part].annotation if part in section.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return set(Adversary.model_fields) if "adversaries" in location else set(Range.model_fields)
        section = annotation
    return {field.alias or name for name, field in section.model_fields.items()}


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

    @property
    def absolute_tracking_uri(self) -> str:
        """The store for a process that works in another folder, as Ray's do."""
        path = self.tracking_uri.removeprefix("sqlite:///")
        return f"sqlite:///{Path(path).absolute()}" if path != self.tracking_uri else self.tracking_uri

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
