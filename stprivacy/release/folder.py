"""A folder of videos in, a folder of released videos out: what is done stays done, what is broken is told at the end.

Broken is a video that cannot be read, and one whose release cannot be written. A full disk ends the run: no other would fare better.
"""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from stprivacy.data.annotations import VIDEO_SUFFIXES, videos_below
from stprivacy.errors import RunError, UserError
from stprivacy.files import PREFIX, SUFFIX, atomic_write
from stprivacy.release.model import ReleaseModel
from stprivacy.release.video import Report, Settings, anonymize_video

SETTINGS_FILE, MANIFEST, LOCK = ".stprivacy-release.json", ".stprivacy-release.jsonl", ".stprivacy-release.lock"
"""In the output folder: what its videos were made with, so that a second run does not mix two kinds of release; a line for each video
that is done, with its digest; and whose turn it is."""
FORMAT = 2
"""Of the note. 1 had no manifest, and its videos have noise that can be taken off."""
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

    Done is a video whose bytes are those of its line in the manifest; another file of its name is nobody's to overwrite, and counts as
    failed. Raises UserError before any work when the folders do not fit: nested, two videos of one name, an output of other settings, a
    link that leads to an original, another run at work there; RunError when nothing further can be written.
    """
    plan = _plan(source, target)
    _refuse_links(plan, target)
    with _alone(target, force):
        _claim(target, model, settings, force)
        for left in target.rglob(f"{PREFIX}*{SUFFIX}"):  # of runs that were killed
            left.unlink(missing_ok=True)
        if force:  # all at once, or a run that is killed would leave old releases that count as done
            (target / MANIFEST).unlink(missing_ok=True)
            for out in plan.values():
                out.unlink(missing_ok=True)
        return _release_all(plan, target, model, settings, told)


def _release_all(
    plan: dict[Path, Path], target: Path, model: ReleaseModel, settings: Settings, told: Callable[[Path, Path, Report], None]
) -> Outcome:
    digests = _read_manifest(target)
    released, skipped, failed = [], [], {}
    for video, out in plan.items():
        name = out.relative_to(target).as_posix()
        if os.path.lexists(out):
            if out.is_file() and digests.get(name) == _digest(out):
                skipped.append(out)
            else:
                failed[video] = f"{out} is there and is not what an earlier run left; move it away, or --force makes all anew"
            continue
        try:
            report = _release(video, out, model, settings, lambda part, name=name: _note_done(target, name, part))  # type: ignore[misc]
        except (UserError, RunError) as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in NOTHING_FURTHER:
                raise RunError(f"{error}, and nothing else there; fix that and run again, what is done stays done") from error
            failed[video] = str(error).removeprefix(f"{video}: ")
        else:
            told(video, out, report)
            released.append(out)
    return Outcome(tuple(released), tuple(skipped), failed)


def _release(video: Path, out: Path, model: ReleaseModel, settings: Settings, before: Callable[[Path], None]) -> Report:
    """As `anonymize_video`, in a folder that may have to be made."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{out.parent}: cannot be made ({error.strerror})") from error
    return anonymize_video(video, out, model, settings, before)


@contextmanager
def _alone(target: Path, force: bool) -> Iterator[None]:
    """One run at a time writes to a folder. The lock goes with its process. Raises UserError where another run has it."""
    _refuse_foreign(target, force)
    target.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{target}: another run is writing to it; wait until it has ended, or take another folder") from None
    try:
        yield
    finally:
        lock.release()


def _note_done(target: Path, name: str, part: Path) -> None:
    """Add a line to the manifest, on the disk before the video takes its name."""
    line = json.dumps({"file": name, "bytes": part.stat().st_size, "sha256": _digest(part)}) + "\n"
    with open(target / MANIFEST, "a+b") as file:
        if file.tell() and not (target / MANIFEST).read_bytes().endswith(b"\n"):  # a kill cut the last line short
            file.write(b"\n")
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def _read_manifest(target: Path) -> dict[str, str]:
    """The digest of every video that is done, by its path in the folder; the last line about it counts, and broken lines don't."""
    path, digests = target / MANIFEST, {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
            digests[str(row["file"])] = str(row["sha256"])
        except (ValueError, KeyError, TypeError):
            continue
    return digests


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_links(plan: dict[Path, Path], target: Path) -> None:
    """Raises UserError where an output would be written, or deleted, outside of the target, or is an original under another name."""
    root = target.resolve()
    originals = {video.resolve(): video for video in plan}
    known = {(stat.st_dev, stat.st_ino): video for video in plan if (stat := video.stat())}
    for out in plan.values():
        if root != out.parent.resolve() and root not in out.parent.resolve().parents:
            raise UserError(f"{out.parent}: a link leads out of {target}; delete the link, or take another folder")
        there = out.stat() if out.exists() else None
        if out.resolve() in originals or (there and (there.st_dev, there.st_ino) in known):
            raise UserError(f"{out}: is an original itself; take another folder")


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


def _refuse_foreign(target: Path, force: bool) -> None:
    """Raises UserError for a folder that holds something else than an earlier run's releases."""
    for name in (SETTINGS_FILE, MANIFEST, LOCK):
        if (target / name).is_symlink():
            raise UserError(f"{target / name}: is a link, and what it leads to would be written to; delete it, or take another folder")
    there = target.iterdir() if target.is_dir() else ()
    if not force and not (target / SETTINGS_FILE).exists() and any(not path.name.startswith(PREFIX) for path in there):
        raise UserError(f"{target}: is not empty and not from an earlier run; take another folder, or --force overwrites")


def _claim(target: Path, model: ReleaseModel, settings: Settings, force: bool) -> None:
    """Note in the output folder what its videos are made with. Raises UserError when something else is there already."""
    note = target / SETTINGS_FILE
    about = asdict(settings) | {"model": model.content, "format": FORMAT}
    found = json.loads(note.read_text()) if note.exists() and not force else about
    if "format" not in found:
        raise UserError(
            f"{target}: an earlier version's releases, whose noise can be taken off; take another folder, or --force makes all anew"
        )
    if found != about:
        raise UserError(f"{target}: holds releases of another model or other settings; take another folder, or --force makes all anew")
    with atomic_write(note) as file:
        file.write((json.dumps(about, indent=2, sort_keys=True) + "\n").encode())
