"""From a data set's videos to `data/clips/<name>`: find them, split them, decode them, say what was left out."""

import errno
import json
import os
import shutil
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from stprivacy.config import (
    CelebVDataset,
    Clip,
    Dataset,
    FolderDataset,
    PADataset,
    PHVUDataset,
    Preprocess,
    SyntheticDataset,
    VPDataset,
    WeizmannDataset,
    config_hash,
)
from stprivacy.data import annotations, synthetic
from stprivacy.data.annotations import Catalogue, Video
from stprivacy.data.annotations_celebv import celebv
from stprivacy.data.annotations_hvu import phvu
from stprivacy.data.annotations_pa import pa
from stprivacy.data.annotations_vp import vp
from stprivacy.data.decode import Decoded, decode_all, write_quarantine
from stprivacy.data.frame_labels import Spans, every_nth
from stprivacy.data.splits import cut_val
from stprivacy.errors import UserError
from stprivacy.fingerprint import code_fingerprint

NAMES_SHOWN = 5


def catalogue_of(dataset: Dataset, cache: Path, num_processes: int) -> Catalogue:
    """The labelled videos of a data set, `val` cut; VP-Synth is rendered into `cache` first."""
    match dataset:
        case SyntheticDataset():
            root = cache / f"vp-synth-{config_hash(dataset, code_fingerprint('data/synthetic.py', 'data/video.py'))}"
            found = annotations.from_table(root, synthetic.render(dataset, root, num_processes))
        case VPDataset():
            found = vp(dataset)
        case PADataset():
            found = pa(dataset)
        case WeizmannDataset():
            found = annotations.weizmann(dataset)
        case CelebVDataset():
            found = celebv(dataset)
        case PHVUDataset():
            found = phvu(dataset)
        case FolderDataset():
            found = annotations.folder(dataset)
    return cut_val(annotations.checked(found, dataset.source), dataset.val_share, dataset.seed)


def preprocess(dataset: Dataset, clip: Clip, settings: Preprocess, target: Path, cache: Path) -> dict[str, int]:
    """Fill `target` (data/clips/<name>); gives the counts of its report.

    Frames are kept in `cache` and linked into `target`, since DVC empties a stage's outs before it runs. Raises UserError when
    more videos cannot be decoded than `failure_budget` allows, or a split is left without any.
    """
    catalogue = catalogue_of(dataset, cache, settings.num_processes)
    what = {"frame_step": clip.frame_step, "short_side": settings.short_side, "dataset": dataset.name}
    folder = cache / f"clips-{config_hash(what, code_fingerprint('data/decode.py', 'data/video.py'))}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    decoded = _decode_within_budget(catalogue, folder, dataset.source, clip.frame_step, settings, target / "quarantine.jsonl")
    good = [one for one in decoded if one.shape is not None]
    empty = next((split for split in ("train", "val", "test") if not any(one.video.split == split for one in good)), None)
    if empty:
        raise UserError(f"{dataset.source}: no {empty} video could be decoded; {target / 'quarantine.jsonl'} says why: mend them")
    _write_clips(target, good, catalogue, dataset.name, clip.frame_step)
    return _write_report(target, catalogue, decoded, clip.frame_step)


def _decode_within_budget(
    catalogue: Catalogue, folder: Path, source: str, frame_step: int, settings: Preprocess, quarantine: Path
) -> list[Decoded]:
    """What became of all videos. Stops as soon as too many have failed: the rest of a long list would be decoded for nothing."""
    allowed = settings.failure_budget * len(catalogue.videos)
    decoded: list[Decoded] = []
    with closing(decode_all(catalogue.videos, folder, frame_step, settings)) as outcomes:
        num_failed = 0
        for one in outcomes:
            decoded.append(one)
            num_failed += one.shape is None
            if num_failed > allowed:
                break
    bad = write_quarantine(quarantine, decoded)
    if len(bad) > allowed:
        raise UserError(
            f"{source}: {len(bad)} of the first {len(decoded)} videos cannot be decoded (last {bad[-1].video.path}: {bad[-1].reason}), "
            f"preprocess.failure_budget = {settings.failure_budget} allows {int(allowed)} of {len(catalogue.videos)}; "
            f"{quarantine} names them: mend them or raise the budget"
        )
    return decoded


def _write_clips(target: Path, good: list[Decoded], catalogue: Catalogue, name: str, frame_step: int) -> None:
    (target / "clips").mkdir()
    number_of = {action: number for number, action in enumerate(catalogue.actions)}
    rows = []
    for one in good:
        video = one.video
        _link(one.frames, target / "clips" / f"{video.key}.npy")
        frames, height, width = one.shape or (0, 0, 0)
        rows.append({
            "key": video.key, "file": video.path.relative_to(catalogue.root).as_posix(), "split": video.split, "group": video.group,
            "action": _action_label(video, number_of), "attributes": list(video.attributes),
            "num_frames": frames, "height": height, "width": width,
        } | _frame_labels(one, frame_step))  # fmt: skip
    (target / "manifest.jsonl").write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))
    counts = Counter(one.video.split for one in good)
    info: dict[str, Any] = {"name": name, "actions": catalogue.actions, "attributes": catalogue.attributes, "num_videos": counts}
    if catalogue.several_actions:
        info["several_actions"] = True
    (target / "dataset.json").write_text(json.dumps(info, indent=2, sort_keys=True) + "\n")


def _frame_labels(one: Decoded, frame_step: int) -> dict[str, list[Spans]]:
    """For a video whose frames have labels: `frame_labels`, of each attribute the spans among the frames that were kept."""
    num_frames = one.shape[0] if one.shape else 0
    spans = [every_nth(spans, frame_step, num_frames) for spans in one.video.frame_labels]
    return {"frame_labels": spans} if spans else {}


def _lacks_labels(one: Decoded, frame_step: int) -> bool:
    """Has a video whose frames have labels a kept frame without, as one that is longer than its labels?"""
    num_frames = one.shape[0] if one.shape else 0
    spans_of_all = _frame_labels(one, frame_step).get("frame_labels", [])
    return any(sum(last - first + 1 for first, last, _ in spans) < num_frames for spans in spans_of_all)


def _action_label(video: Video, number_of: dict[str, int]) -> int | list[int]:
    """The number of its action; a 0 or 1 for every action where videos have several."""
    if isinstance(video.action, str):
        return number_of[video.action]
    return [int(action in video.action) for action in number_of]


def _link(source: Path, target: Path) -> None:
    """Hard-link, or copy where the cache lies on another file system."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        shutil.copyfile(source, target)


def _write_report(target: Path, catalogue: Catalogue, decoded: list[Decoded], frame_step: int) -> dict[str, int]:
    """Print the findings, a line each, and write them to report.json with up to NAMES_SHOWN names."""
    good = [one for one in decoded if one.shape is not None]
    counts = {f"videos/{split}": sum(one.video.split == split for one in good) for split in ("train", "val", "test")}
    counts |= {"videos/quarantined": len(decoded) - len(good), "actions": len(catalogue.actions), "attributes": len(catalogue.attributes)}
    quarantined = [f"{one.video.path} ({one.reason})" for one in decoded if one.shape is None]
    partly = [str(one.video.path) for one in good if _lacks_labels(one, frame_step)]
    found = catalogue.report | {"quarantined videos": quarantined, "videos of which some frames have no label": partly}
    findings = {sentence: names for sentence, names in found.items() if names}
    for sentence, names in findings.items():
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        print(f"note: {len(names)} {sentence}: {', '.join(names[:NAMES_SHOWN])}{more}")
    shown = {sentence: {"count": len(names), "names": names[:NAMES_SHOWN]} for sentence, names in findings.items()}
    (target / "report.json").write_text(json.dumps({"counts": counts, "findings": shown}, indent=2, sort_keys=True) + "\n")
    return counts
