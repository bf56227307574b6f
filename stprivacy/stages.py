"""What dvc.yaml says of a stage, read without DVC: its command, what it reads and makes, and the hash that names its result.

Two people (or a laptop and a cluster) who have the same code, numbers and data get the same hash, and so find each other's results.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stprivacy.config import PARAMS_FILE, config_hash
from stprivacy.errors import UserError
from stprivacy.fingerprint import fingerprint

PIPELINE, LOCK = Path("dvc.yaml"), Path("dvc.lock")
REFERENCE = re.compile(r"\$\{([\w.]+)\}")


@dataclass(frozen=True)
class Stage:
    """A stage as DVC would run it at a params file."""

    name: str
    """DVC's own: `train`, `evaluate@blur`."""
    command: str
    data: tuple[str, ...]
    """What it reads of other stages' outs: paths that no upload of code carries."""
    code: tuple[str, ...]
    """The other deps: files and folders of the project."""
    outs: tuple[str, ...]
    params: str
    """The values of the params that it names, as JSON."""

    def hash(self, data: Mapping[str, str]) -> str:
        """12 digits over code, params and the MD5 of each path of `data`: what DVC compares, too, when it asks whether to run again."""
        return config_hash({"stage": self.name, "params": self.params, "data": dict(data)}, fingerprint(*map(Path, self.code)))


def read_stage(name: str, params_file: Path = PARAMS_FILE) -> Stage:
    """The stage `name` of ./dvc.yaml with every `${…}` resolved. Raises UserError when there is none of that name."""
    if not PIPELINE.exists():
        raise UserError(f"{PIPELINE}: no such file; run in the project's folder")
    stages: dict[str, Any] = _read(PIPELINE)["stages"]
    params, base, item = _read(params_file), *name.partition("@")[::2]
    if base not in stages or ("matrix" in stages[base]) != bool(item):
        raise UserError(f"{PIPELINE}: no stage {name}; there are {', '.join(stages)}")
    entry = stages[base]
    values = params | ({"item": dict.fromkeys(entry["matrix"], item)} if item else {})
    outs_of_all = {_path(out) for stage in stages.values() for out in stage["outs"]}
    deps = [(_resolved(dep, values), dep in outs_of_all) for dep in entry["deps"]]
    return Stage(
        name=name,
        command=_resolved(entry["cmd"], values) + ("" if params_file == PARAMS_FILE else f" --params {params_file}"),
        data=tuple(path for path, made in deps if made),
        code=tuple(path for path, made in deps if not made),
        outs=tuple(_resolved(_path(out), values) for out in entry["outs"]),
        params=json.dumps({key: _value(params, key) for key in entry.get("params", [])}, sort_keys=True),
    )


def recorded() -> dict[str, str]:
    """Path → MD5 of every out in ./dvc.lock, as DVC wrote it (`….dir` for a folder); empty where there is no such file."""
    stages = (_read(LOCK) or {}).get("stages", {}) if LOCK.exists() else {}
    return {out["path"]: out.get("md5", "") for stage in stages.values() for out in stage.get("outs", [])}


def folder_md5(folder: Path) -> str:
    """DVC's MD5 of a folder: over the list of its files' paths and MD5s."""
    rows = [{"md5": _file_md5(path), "relpath": path.relative_to(folder).as_posix()} for path in folder.rglob("*") if path.is_file()]
    return hashlib.md5(json.dumps(sorted(rows, key=lambda row: row["relpath"])).encode()).hexdigest() + ".dir"


def _file_md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _read(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path.read_text())


def _path(out: str | dict[str, Any]) -> str:
    """An out is a path, or a path with settings."""
    return out if isinstance(out, str) else next(iter(out))


def _resolved(text: str, values: dict[str, Any]) -> str:
    return REFERENCE.sub(lambda found: str(_value(values, found[1])), text)


def _value(values: dict[str, Any], key: str) -> Any:
    """The value at `section.key`. Raises UserError when it isn't there."""
    found: Any = values
    for part in key.split("."):
        if not isinstance(found, dict) or part not in found:
            raise UserError(f"params.yaml: {key}: missing, and {PIPELINE} names it; add it (params/vp-synth.yaml shows every key)")
        found = found[part]
    return found
