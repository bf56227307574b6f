"""Every attacker's answers, kept: predictions.npz, from which figures, intervals and comparisons follow without training anything again.

Arrays and text alone, read without running any code in them. Names in the file: `val_actions` (n,), or (n, C) where a clip has several,
`val_attributes` (n, A), `val_keys` and `val_groups` (n,), the same of test, `attributes` (A,), `about` (JSON: method, data set, every
point and its attackers), and `<point>/<attacker>/<split>`: probabilities (n, O).
"""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stprivacy.data.clips import ShardReader
from stprivacy.errors import UserError
from stprivacy.evaluation.judge import Judgement
from stprivacy.evaluation.metrics import Labels

NAME = "predictions.npz"


@dataclass(frozen=True)
class SavedPoint:
    """A method at one kept share and attacker seed."""

    kept_share: float | None
    seed: int
    action: np.ndarray
    """Test probabilities (n, C) of the action attacker."""
    privacy: np.ndarray
    """Test probabilities (n, A) of the strongest privacy attacker."""
    strongest: str


@dataclass(frozen=True)
class Predictions:
    """What was kept of a judgement, of the test split."""

    method: str
    dataset: str
    main_share: float | None
    """The kept share whose figures stand in metrics.json."""
    attributes: tuple[str, ...]
    keys: tuple[str, ...]
    """Of the test clips."""
    groups: np.ndarray
    labels: Labels
    points: tuple[SavedPoint, ...]

    def at(self, kept_share: float | None) -> tuple[SavedPoint, ...]:
        """The points of a kept share, one a seed. Raises UserError naming the shares that were judged."""
        found = tuple(point for point in self.points if point.kept_share == kept_share)
        if not found:
            shares = sorted({point.kept_share for point in self.points if point.kept_share is not None})
            judged = f"judged at {', '.join(f'{share:g}' for share in shares)}" if shares else "it drops nothing: name it without a share"
            raise UserError(f"{self.method}@{kept_share}: {judged}")
        return found


def groups_of(shards: Path, split: str) -> np.ndarray:
    """The group (n,) of every clip of a split, as text."""
    return np.array([str(row["group"]) for row in ShardReader(shards, split).rows])


def save_predictions(judgement: Judgement, dataset: str, main_share: float | None, path: Path) -> None:
    """Write what every attacker of every point answered on val and test."""
    released = next(iter(judgement.released.values()))
    arrays: dict[str, Any] = {"attributes": np.array(released.attributes)}
    for split in ("val", "test"):
        reader, labels = ShardReader(judgement.shards, split), released.labels(split)
        arrays |= {f"{split}_actions": labels.actions, f"{split}_attributes": labels.attributes, f"{split}_keys": np.array(reader.keys)}
        arrays[f"{split}_groups"] = np.array([str(row["group"]) for row in reader.rows])
    points = []
    for number, point in enumerate(judgement.points):
        attackers = {result.name: result.val_score for result in point.privacy}
        points.append({"kept_share": point.kept_share, "seed": point.seed, "strongest": point.strongest.name, "attackers": attackers})
        for result in (point.action, *point.privacy):
            arrays |= {f"{number}/{result.name}/val": result.val, f"{number}/{result.name}/test": result.test}
    about = {"method": judgement.method, "dataset": dataset, "main_share": main_share, "points": points}
    np.savez_compressed(path, about=np.array(json.dumps(about)), **arrays)


def load_predictions(path: Path) -> Predictions:
    """Read the test answers back. Raises UserError for a file that is missing or is none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            points = tuple(
                SavedPoint(
                    row["kept_share"], row["seed"], file[f"{number}/action/test"], file[f"{number}/{row['strongest']}/test"],
                    row["strongest"],
                )
                for number, row in enumerate(about["points"])
            )  # fmt: skip
            return Predictions(
                about["method"], about["dataset"], about["main_share"], tuple(file["attributes"].tolist()),
                tuple(file["test_keys"].tolist()), file["test_groups"], Labels(file["test_actions"], file["test_attributes"]), points,
            )  # fmt: skip
    except FileNotFoundError:
        method = path.parent.name
        raise UserError(f"{path}: no such file; run `dvc repro evaluate@{method}` (evaluate-raw for raw)") from None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a file of predictions ({' '.join(str(error).split())[:120]}); judge the method again") from None
