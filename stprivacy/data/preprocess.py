"""From a data set's videos to `data/clips/<name>`: find them, split them, decode them, say what was left out."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

from stprivacy.config import Clip, Dataset, FolderDataset, Preprocess, SyntheticDataset, WeizmannDataset, config_hash
from stprivacy.data import annotations, synthetic
from stprivacy.data.annotations import Catalogue
from stprivacy.data.decode import Decoded, decode_all, write_quarantine
from stprivacy.data.splits import cut_val
from stprivacy.errors import UserError
from stprivacy.fingerprint import code_fingerprint

NAMES_SHOWN = 5


def catalogue_of(dataset: Dataset, cache: Path, num_processes: int) -> Catalogue:
    """The labelled videos of a data set, `val` cut; VP-Synth is rendered into `cache` first."""
    match dataset:
        case SyntheticDataset():
            code = code_fingerprint("data/synthetic.py", "data/video.py")
            root = cache / f"vp-synth-{config_hash(dataset, code)}"
            found = annotations.from_table(root, synthetic.render(dataset, root, num_processes))
        case WeizmannDataset():
            found = annotations.weizmann(dataset)
        case FolderDataset():
            found = annotations.folder(dataset)
        case _:
            raise NotImplementedError(dataset.kind)
    return cut_val(annotations.checked(found, dataset.source), dataset.val_share, dataset.seed)


def preprocess(dataset: Dataset, clip: Clip, settings: Preprocess, target: Path, cache: Path) -> dict[str, int]:
    """Fill `target` (data/clips/<name>); gives the counts of its report. Raises UserError when too many videos cannot be decoded."""
    catalogue = catalogue_of(dataset, cache, settings.num_processes)
    kept = {name: getattr(settings, name) for name in ("short_side",)} | {"frame_step": clip.frame_step, "source": dataset.source}
    finished = cache / f"clips-{config_hash(kept, dataset, code_fingerprint('data/decode.py', 'data/synthetic.py'))}"
    decoded = list(decode_all(catalogue.videos, finished, clip.frame_step, settings))
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    bad = write_quarantine(target / "quarantine.jsonl", decoded)
    if len(bad) > settings.failure_budget * len(decoded):
        raise UserError(
            f"{dataset.source}: {len(bad)} of {len(decoded)} videos cannot be decoded ({bad[0].video.path}: {bad[0].reason}), more than "
            f"preprocess.failure_budget = {settings.failure_budget}; {target / 'quarantine.jsonl'} names them: mend them or raise the budget"
        )
    good = [one for one in decoded if one.shape is not None]
    _write_clips(target, finished, good, catalogue, dataset.name)
    return _write_report(target, catalogue, good, bad)


def _write_clips(target: Path, finished: Path, good: list[Decoded], catalogue: Catalogue, name: str) -> None:
    (target / "clips").mkdir()
    rows = []
    for one in good:
        video = one.video
        # A hard link: DVC empties its outs before a stage runs, what is decoded stays.
        os.link(finished / f"{video.key}.npy", target / "clips" / f"{video.key}.npy")
        frames, height, width = one.shape or (0, 0, 0)
        rows.append({
            "key": video.key, "file": str(video.path), "split": video.split, "action": catalogue.actions.index(video.action),
            "attributes": list(video.attributes), "group": video.group, "num_frames": frames, "height": height, "width": width,
        })  # fmt: skip
    (target / "manifest.jsonl").write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))
    counts = Counter(one.video.split for one in good)
    info = {"name": name, "actions": catalogue.actions, "attributes": catalogue.attributes, "num_videos": counts}
    (target / "dataset.json").write_text(json.dumps(info, indent=2, sort_keys=True) + "\n")


def _write_report(target: Path, catalogue: Catalogue, good: list[Decoded], bad: list[Decoded]) -> dict[str, int]:
    counts = {f"videos/{split}": sum(one.video.split == split for one in good) for split in ("train", "val", "test")}
    counts |= {"videos/quarantined": len(bad), "actions": len(catalogue.actions), "attributes": len(catalogue.attributes)}
    findings = {sentence: names for sentence, names in catalogue.report.items() if names}
    for sentence, names in findings.items():
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        print(f"note: {len(names)} {sentence}: {', '.join(names[:NAMES_SHOWN])}{more}")
    (target / "report.json").write_text(json.dumps({"counts": counts, "findings": findings}, indent=2, sort_keys=True) + "\n")
    return counts
