"""The part of metrics.json about single frames, where frames have labels: `frame_level`.

n clips, A attributes.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from stprivacy.evaluation.floors import floors
from stprivacy.evaluation.frame_level import FrameLevel, items_of
from stprivacy.evaluation.metrics import average_precisions, by_attribute, cmap, macro_f1
from stprivacy.evaluation.released import Released
from stprivacy.evaluation.statistics import interval, macro, resampled_aps, resamples
from stprivacy.evaluation.uncertainty import leak_removed


def frame_level_figures(found: Sequence[FrameLevel], released: Released, groups: np.ndarray, raw: float | None) -> dict[str, Any]:
    """`frame_level` of metrics.json: test figures of the strongest attacker of each seed as means, all attackers of the first, floors.

    `groups` (n,): of each test clip; frames of a group are drawn together for the interval. `raw`: the cMAP of raw clips' frames, None
    where they have none or are judged themselves.
    """
    train, test = items_of(released, "train"), items_of(released, "test")
    present, names = test.labels.present, released.attributes
    best = [one.strongest.test for one in found]
    figures = [_figures(answer, present, names) for answer in best]
    ap = np.mean([average_precisions(answer, present) for answer in best], axis=0)
    ground = {name: asdict(floor) for name, floor in floors(train.labels, test.labels).items()}
    mean = float(np.mean([figure["cmap"] for figure in figures]))
    removed = leak_removed(mean, mean if raw is None else raw, ground["chance"]["cmap"])
    times = resamples(groups)
    drawn = np.mean([resampled_aps(answer, present, times[:, test.clips]) for answer in best], axis=0)
    first = found[0]
    return {
        "cmap": mean,
        "f1": float(np.mean([figure["f1"] for figure in figures])),
        "ap": by_attribute(names, ap),
        "strongest_attacker": first.strongest.name,
        "attackers": {one.name: _figures(one.test, present, names) | {"val_score": one.val_score} for one in first.readings},
        "epochs": first.epochs,
        "fitted": first.fitted,
        "floors": {
            name: {"cmap": floor["cmap"], "f1": floor["f1"], "ap": by_attribute(names, floor["ap"])} for name, floor in ground.items()
        },
        "leak_removed": None if np.isnan(removed) else removed,
        "intervals": {"cmap": interval(macro(drawn)), "ap": {name: interval(drawn[:, place]) for place, name in enumerate(names)}},
        "num_frames": len(test.clips),
        "num_frames_without_labels": test.num_unlabelled,
    }


def _figures(answer: np.ndarray, present: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    precisions = by_attribute(names, average_precisions(answer, present))
    return {"cmap": cmap(answer, present), "f1": macro_f1(answer, present), "ap": precisions}
