"""A folder of videos in, a folder of released videos out: what is done stays done, what is broken is told at the end.

Broken is a video that cannot be read, and one whose release cannot be written. A full disk ends the run: no other would fare better.
"""

import errno
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from stprivacy.data.annotations import VIDEO_SUFFIXES, videos_below
from stprivacy.errors import RunError, UserError
from stprivacy.release.model import ReleaseModel
from stprivacy.release.video import Report, Settings, anonymize_video

SETTINGS_FILE = ".stprivacy-release.json"
"""In the output folder: what its videos were made with, so that a second run does not mix two kinds of release."""
NOTHING_FURTHER = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""What the system says of a place where no other video can be written, either."""


@dataclass(frozen=True)
class Outcome:
    """What became of a folder."""

    released: tuple[Path, ...]
    skipped: tuple[Path, ...]
    """Released by an earlier run."""
    failed: dict[Path, str]
    """Input file → the reason."""


def anonymize_folder(
    source: Path, target: Path, model: ReleaseModel, settings: Settings, force: bool, told: Callable[[Path, Path, Report], None]
) -> Outcome:
    """Release every video below `source` to the same place below `target`, as mp4. `told` hears of each that is done.

    Raises UserError before any work when the folders do not fit: nested, two videos of one name, an output of other settings; RunError
    when nothing further can be written.
    """
    plan = _plan(source, target)
    _claim(target, model, settings, force)
    for out in plan.values() if force else ():
        out.unlink(missing_ok=True)  # all at once, or a run that is killed would leave old releases that count as done
    released, skipped, failed = [], [], {}
    for video, out in plan.items():
        if out.exists():
            skipped.append(out)
            continue
        try:
            report = _release(video, out, model, settings)
        except (UserError, RunError) as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in NOTHING_FURTHER:
                raise RunError(f"{error}, and nothing else there; mend that and run again, what is done stays done") from error
            failed[video] = str(error).removeprefix(f"{video}: ")
        else:
            told(video, out, report)
            released.append(out)
    return Outcome(tuple(released), tuple(skipped), failed)


def _release(video: Path, out: Path, model: ReleaseModel, settings: Settings) -> Report:
    """As `anonymize_video`, in a folder that may have to be made."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{out.parent}: cannot be made ({error.strerror})") from error
    return anonymize_video(video, out, model, settings)


def _plan(source: Path, target: Path) -> dict[Path, Path]:
    """Video → released video, both below their folders."""
    inner, outer = target.resolve(), source.resolve()
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise UserError(f"{target}: lies within {source} or around it; take a folder apart from the originals")
    try:
        videos = videos_below(source)
    except UserError:
        raise UserError(f"{source}: no videos there (files named *{', *'.join(sorted(VIDEO_SUFFIXES))}); mend the path") from None
    plan: dict[Path, Path] = {}
    origin: dict[Path, Path] = {}
    for video in videos:
        out = target / video.relative_to(source).with_suffix(".mp4")
        if out in origin:
            raise UserError(f"{origin[out]} and {video} would both become {out}; rename one")
        origin[out] = video
        plan[video] = out
    return plan


def _claim(target: Path, model: ReleaseModel, settings: Settings, force: bool) -> None:
    """Note in the output folder what its videos are made with. Raises UserError when something else is there already."""
    note = target / SETTINGS_FILE
    about = asdict(settings) | {"model": model.content}
    if not force and note.exists() and json.loads(note.read_text()) != about:
        raise UserError(f"{target}: holds releases of another model or other settings; take another folder, or --force makes all anew")
    if not force and not note.exists() and target.is_dir() and any(target.iterdir()):
        raise UserError(f"{target}: is not empty and not from an earlier run; take another folder, or --force overwrites")
    target.mkdir(parents=True, exist_ok=True)
    part = note.with_suffix(".part")
    part.write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")
    os.replace(part, note)
