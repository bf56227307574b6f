"""CelebV-HQ (Zhu et al., ECCV 2022): face clips with 40 attributes of appearance, 35 actions and one of 8 expressions.

The label file (celebvhq_info.json) and the clips are for non-commercial research, so neither is shipped. Its form, as the data set's
page describes it (github.com/CelebV-HQ/CelebV-HQ): `meta_info` names the columns, `clips` maps a clip's id to its source video and
its attributes; `emotion` is one word, or, where `sep_flag` is true, a list of words with seconds.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stprivacy.config import CelebVDataset
from stprivacy.data.annotations import Catalogue, Video, key_of, named_files
from stprivacy.errors import UserError
from stprivacy.randomness import keyed_seed

MEND = "download celebvhq_info.json again"


def celebv(dataset: CelebVDataset) -> Catalogue:
    """The clips below `source` (`<id>.mp4`, in any folder): action = expression, attributes = `hidden`.

    A clip with several expressions has the one that is shown longest. Source videos are divided at random, whole ones.
    """
    path = Path(dataset.annotations)
    appearance, clips = _read(path)
    columns = [_column(dataset, appearance, name) for name in dataset.hidden]
    expressions, several = {}, []
    attributes, sources = {}, {}
    for name, clip in clips.items():
        place = f"{path}: clip {name}"
        values, emotion = _attributes(place, clip, len(appearance))
        expressions[name], many = _expression(place, emotion)
        attributes[name] = tuple(float(values[column]) for column in columns)
        sources[name] = str(clip.get("ytb_id") or name.rpartition("_")[0])
        several += [name] if many else []
    found, report = named_files(Path(dataset.source), clips, "<clip id>.mp4, such as " + next(iter(clips)) + ".mp4")
    splits = _divide({sources[name] for name in found}, dataset.train_share, dataset.seed)
    videos = [
        Video(key_of(f"{name}.mp4"), file, expressions[name], splits[sources[name]], sources[name], attributes[name])
        for name, file in sorted(found.items())
    ]
    report["clips with several expressions, of which the longest counts"] = sorted(name for name in several if name in found)
    return Catalogue(Path(dataset.source), tuple(videos), dataset.hidden, report)


def _read(path: Path) -> tuple[list[str], dict[str, Mapping[str, Any]]]:
    """Names of the appearance columns, and the clips. Raises UserError where the JSON has another form."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; download CelebV-HQ's label file, or set dataset.annotations to it")
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({error}); {MEND}") from None
    about = plain.get("meta_info") if isinstance(plain, Mapping) else None
    names = about.get("appearance_mapping") if isinstance(about, Mapping) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: meta_info.appearance_mapping is not a list of names; {MEND}")
    clips = plain.get("clips")
    if not isinstance(clips, Mapping) or not clips:
        raise UserError(f"{path}: has no clips; {MEND}")
    return [_plain(name) for name in names], dict(clips)


def _plain(name: str) -> str:
    """`Rosy Cheeks`, `rosy-cheeks` and `rosy_cheeks` are one: the page and the file write names differently."""
    return name.casefold().replace(" ", "_").replace("-", "_")


def _column(dataset: CelebVDataset, appearance: list[str], name: str) -> int:
    if _plain(name) not in appearance:
        raise UserError(f"dataset.hidden: {name} is no attribute of {dataset.annotations}; it has {', '.join(appearance)}")
    return appearance.index(_plain(name))


def _attributes(place: str, clip: Any, count: int) -> tuple[list[int], Any]:
    """The appearance values and the emotion of a clip."""
    attributes = clip.get("attributes") if isinstance(clip, Mapping) else None
    values = attributes.get("appearance") if isinstance(attributes, Mapping) else None
    if not isinstance(values, list) or len(values) != count or any(value not in (0, 1) for value in values):
        raise UserError(f"{place}: expected {count} values 0 or 1 under attributes.appearance; {MEND}")
    return values, attributes.get("emotion") if isinstance(attributes, Mapping) else None


def _expression(place: str, emotion: Any) -> tuple[str, bool]:
    """The expression of a clip, the longest of several, the first of equal ones; and whether there are several."""
    labels = emotion.get("labels") if isinstance(emotion, Mapping) else None
    if isinstance(labels, str) and labels:
        return _plain(labels), False
    shown: dict[str, float] = {}
    for span in labels if isinstance(labels, list) else []:
        if not (isinstance(span, Mapping) and isinstance(span.get("emotion"), str) and _is_span(span)):
            raise UserError(f"{place}: expected emotion, start_sec and end_sec, not {str(span)[:60]}; {MEND}")
        name = _plain(span["emotion"])
        shown[name] = shown.get(name, 0.0) + span["end_sec"] - span["start_sec"]
    if not shown:
        raise UserError(f"{place}: has no word under attributes.emotion.labels; {MEND}")
    return max(shown, key=lambda name: shown[name]), len(shown) > 1


def _is_span(span: Mapping[str, Any]) -> bool:
    first, last = span.get("start_sec"), span.get("end_sec")
    return isinstance(first, int | float) and isinstance(last, int | float) and 0 <= first <= last


def _divide(sources: set[str], train_share: float, seed: int) -> dict[str, Literal["train", "test"]]:
    """Source videos at random to train and test."""
    order = np.random.default_rng(keyed_seed("celebv-hq", seed)).permutation(sorted(sources))
    num_train = round(train_share * len(order))
    return {str(source): "train" if place < num_train else "test" for place, source in enumerate(order)}
