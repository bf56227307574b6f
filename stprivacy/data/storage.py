"""Where data lives beside this machine: a folder or an S3 bucket, behind the same few methods; boto3 is in storage_s3.py alone.

A bucket holds plain objects under the keys that callers choose, and folders as *trees*:

    objects/<sha256>      content, named after itself: it is sent once, and two writers can only ever write the same bytes
    trees/<key>.json      what a folder holds: path → SHA-256 and bytes; written last, so that it never names what isn't there
    runs/…/objects/       content of a tree `runs/…`: apart, so that it goes with the run, and no other tree misses it

Nothing here needs a conditional put (If-None-Match), which not every server has: a name that is a checksum needs no guard, and of two
writers of one tree the last one wins with all of its files. Checksums are in names and trees, never in an object's metadata: some servers
forget those.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from stprivacy.errors import RunError, UserError

BLOCK = 1 << 20
OBJECTS, TREES, RUNS = "objects", "trees", "runs"
LATER = ".later.json"
SHA256 = re.compile(r"[0-9a-f]{64}")
SIDE_BY_SIDE = 4
"""Transfers at a time: small files wait for answers, not for bandwidth."""
Keys = list[str]  # within Storage, `list` is a method


class Storage(ABC):
    """Keys are relative paths with `/`, no part of them empty, `.` or `..`. A prefix is a key or a folder of keys; "" is everything.

    Errors: UserError for what the person can mend in the settings (credentials, bucket, missing object), RunError for what happened on
    the way (server away, disk full, object cut short or with other bytes).
    """

    url: str

    @abstractmethod
    def put(self, local: Path, key: str) -> str:
        """Send a file in parts; gives its SHA-256. The same content under that key isn't sent again; a reader sees old or new, no half."""

    def get(self, key: str, local: Path, sha256: str | None = None) -> None:
        """Fetch an object into the file `local`, which appears when it is whole; a broken transfer goes on where it broke.

        `sha256`: what it must be (of `objects/<sha256>` the name says it). Without, only the length is checked.
        """
        with alone(local):
            self.get_alone(key, local, sha256)

    @abstractmethod
    def get_alone(self, key: str, local: Path, sha256: str | None = None) -> None:
        """`get` for who knows that nobody else fetches into that file."""

    @abstractmethod
    def put_bytes(self, key: str, content: bytes) -> None:
        """Write a small object."""

    @abstractmethod
    def get_bytes(self, key: str) -> bytes:
        """Read a small object. Raises UserError when there is none."""

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Is there an object of this very key?"""

    @abstractmethod
    def list(self, prefix: str) -> dict[str, int]:
        """Keys at or below the prefix, in order, with their bytes."""

    @abstractmethod
    def delete(self, prefix: str) -> Keys:
        """Remove the keys at or below the prefix, never everything; gives those that were there."""


def open_storage(url: str | None = None) -> Storage:
    """The storage at `url`, or at STPRIVACY_STORAGE: a folder or `s3://bucket/prefix`. Raises UserError when neither is given."""
    url = url or configured_url()
    if not url:
        raise UserError("STPRIVACY_STORAGE: not set; give a folder or s3://bucket/prefix, where data shall live beside this machine")
    if "://" not in url:
        return FolderStorage(Path(url))
    if not url.startswith("s3://"):
        raise UserError(f"STPRIVACY_STORAGE = {url}: neither a folder nor s3://bucket/prefix; mend it")
    from stprivacy.data.storage_s3 import S3Storage  # boto3: a sixth of a second to import

    return S3Storage(url)


def configured_url() -> str | None:
    """What STPRIVACY_STORAGE says, None where it says nothing."""
    return os.environ.get("STPRIVACY_STORAGE") or None


class FolderStorage(Storage):
    """A folder, such as a disk that all nodes mount."""

    def __init__(self, root: Path):
        self.root = root.expanduser().absolute()
        self.url = str(self.root)

    def put(self, local: Path, key: str) -> str:
        target, digest = self._path(key), file_sha256(local)
        if target.is_file() and target.stat().st_size == local.stat().st_size and file_sha256(target) == digest:
            return digest
        with told(target), appearing(target) as part:
            shutil.copyfile(local, part)
            check_content(part, digest, f"{self.url}/{key}")
        return digest

    def get_alone(self, key: str, local: Path, sha256: str | None = None) -> None:
        source, expected = self._existing(key), sha256 or named_sha256(key)
        with told(local), appearing(local) as part:
            shutil.copyfile(source, part)
            check_content(part, expected, f"{self.url}/{key}")

    def put_bytes(self, key: str, content: bytes) -> None:
        target = self._path(key)
        with told(target), appearing(target) as part:
            part.write_bytes(content)

    def get_bytes(self, key: str) -> bytes:
        return self._existing(key).read_bytes()

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def list(self, prefix: str) -> dict[str, int]:
        top = self._path(prefix) if prefix else self.root
        below = [Path(folder) / name for folder, _, names in os.walk(top) for name in names]  # Path.rglob stops at a folder that goes
        sizes = {}
        for path in [top] if top.is_file() else sorted(below):
            if not path.name.endswith(".part"):
                with suppress(FileNotFoundError):  # somebody else has just removed it
                    sizes[path.relative_to(self.root).as_posix()] = path.stat().st_size
        return sizes

    def delete(self, prefix: str) -> Keys:
        found = list(self.list(checked_key(prefix)))
        with told(self._path(prefix)):
            for key in found:
                self._path(key).unlink(missing_ok=True)
            parents = {parent for key in found for parent in self._path(key).parents if self.root in parent.parents}
            for folder in sorted(parents, reverse=True):  # the deepest first
                with suppress(OSError):  # not empty, also where somebody has put something there just now; or gone by somebody else's hand
                    folder.rmdir()
        return found

    def _path(self, key: str) -> Path:
        return self.root / checked_key(key)

    def _existing(self, key: str) -> Path:
        path = self._path(key)
        if not path.is_file():
            raise UserError(f"{path}: no such object in the storage; see STPRIVACY_STORAGE, or run the stage that makes it")
        return path


# ------------------------------------------------------------------------------------------------ folders as trees


@dataclass(frozen=True)
class Entry:
    """A file of a tree."""

    sha256: str
    bytes: int


def put_folder(storage: Storage, folder: Path, key: str, progress: bool = False) -> int:
    """Send the files below `folder` that the storage hasn't, then the tree `trees/<key>.json`; gives how many files were new.

    `progress`: show a bar. Raises UserError when there is no such folder, or no file in it.
    """
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    if not files:
        raise UserError(f"{folder}: no files here to put into the storage; run the stage that makes it")
    entries: dict[str, Entry] = {}
    new = 0
    total = sum(path.stat().st_size for path in files.values())
    bar = tqdm(total=total, desc=f"to {storage.url}", unit="B", unit_scale=True, mininterval=5, disable=not progress)
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool, bar:
        sent_files = pool.map(lambda path: _put_object(storage, path, objects_of(key)), files.values())
        for name, (entry, sent) in zip(files, sent_files, strict=True):
            entries[name], new = entry, new + sent
            bar.update(entry.bytes)
    content = {"files": {name: asdict(entry) for name, entry in entries.items()}}
    storage.put_bytes(tree_key(key), json.dumps(content, indent=1, sort_keys=True).encode())
    return new


def _put_object(storage: Storage, path: Path, objects: str) -> tuple[Entry, bool]:
    """Send a file under its checksum; tells, too, whether it had to travel."""
    size, sha256 = path.stat().st_size, file_sha256(path)
    key = f"{objects}/{sha256}"
    there = storage.list(key).get(key) == size
    if not there and storage.put(path, key) != sha256:
        raise RunError(f"{path}: was changed while it was sent; run again when nothing writes to it")
    return Entry(sha256, size), not there


def get_folder(storage: Storage, key: str, folder: Path, later: str = "") -> None:
    """Fetch the tree `key` into `folder`, which is replaced when everything is there and checked; nothing is fetched that it has.

    `later`: an ending such as `.tar`. Files with it are not fetched but listed in the folder's LATER, for `left_out`.
    Raises UserError when there is no such tree.
    """
    objects, tree = objects_of(key), read_tree(storage, key)
    assert not later or objects == OBJECTS, "what is left out is fetched from there"
    left = {name: tree.pop(name) for name in list(tree) if later and name.endswith(later)}
    with alone(folder), told(folder):
        if not left and _matches(folder, tree):
            return
        part = folder.with_name(f".{folder.name}.part")
        old = folder.with_name(f".{folder.name}.old")

        def fill(name: str, entry: Entry) -> None:
            target = part / name
            if _has(target, entry):
                return
            target.parent.mkdir(parents=True, exist_ok=True)
            if _has(folder / name, entry):
                shutil.copyfile(folder / name, target)
            else:
                storage.get_alone(f"{objects}/{entry.sha256}", target, entry.sha256)

        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            for _ in pool.map(fill, tree.keys(), tree.values()):
                pass  # the first failure is raised here
        for path in [path for path in part.rglob("*") if path.is_file() and path.relative_to(part).as_posix() not in tree]:
            path.unlink()  # of an earlier, broken transfer of another tree
        if left:
            part.mkdir(parents=True, exist_ok=True)
            (part / LATER).write_text(json.dumps({name: asdict(entry) for name, entry in left.items()}, indent=1))
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def left_out(folder: Path) -> dict[str, Entry]:
    """Path → entry of what `get_folder` has left in the storage; empty for every other folder."""
    path = folder / LATER
    return {name: Entry(**entry) for name, entry in json.loads(path.read_text()).items()} if path.exists() else {}


def read_tree(storage: Storage, key: str) -> dict[str, Entry]:
    """Path → entry. Raises UserError when there is no such tree, or it names a path outside its folder."""
    try:
        plain = json.loads(storage.get_bytes(tree_key(key)))["files"]
        tree = {checked_key(name): Entry(str(entry["sha256"]), int(entry["bytes"])) for name, entry in plain.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{storage.url}/{tree_key(key)}: not a tree of this project ({error}); put the folder there again") from None
    if bad := [name for name, entry in tree.items() if not SHA256.fullmatch(entry.sha256)]:
        raise UserError(f"{storage.url}/{tree_key(key)}: {bad[0]} has no checksum; put the folder there again")
    return tree


def tree_key(key: str) -> str:
    return f"{TREES}/{key}.json"


def objects_of(key: str) -> str:
    """Below which prefix the content of the tree `key` is: one that all share, or, of what a run keeps to go on, its own."""
    return f"{key}/{OBJECTS}" if key.startswith(f"{RUNS}/") else OBJECTS


def _has(path: Path, entry: Entry) -> bool:
    return path.is_file() and path.stat().st_size == entry.bytes and file_sha256(path) == entry.sha256


def _matches(folder: Path, tree: dict[str, Entry]) -> bool:
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} if folder.is_dir() else set()
    return files == tree.keys() and all(_has(folder / name, entry) for name, entry in tree.items())


# ------------------------------------------------------------------------------------------------ files


def checked_key(key: str) -> str:
    """The key itself. Raises UserError when it could lead out of the storage's or a tree's folder."""
    parts = key.split("/")
    if "\\" in key or "\0" in key or any(part in ("", ".", "..") for part in parts) or PurePosixPath(key).is_absolute():
        raise UserError(f"{key!r}: no key for the storage; use a relative path without empty parts, . and ..")
    return key


def named_sha256(key: str) -> str | None:
    """The checksum that the key of a content-addressed object is; None for other keys."""
    folder, _, name = key.rpartition("/")
    return name if f"/{folder}".endswith(f"/{OBJECTS}") and SHA256.fullmatch(name) else None


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_content(part: Path, sha256: str | None, name: str) -> None:
    """Raises RunError, with the part file removed, when its bytes aren't those that were put."""
    if sha256 and (found := file_sha256(part)) != sha256:
        part.unlink()
        raise RunError(f"{name}: has other bytes than were put there (SHA-256 {found[:12]}…, not {sha256[:12]}…); delete it, put it again")


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A part file beside the target, renamed to it at the end of the block, removed when the block fails."""
    part = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def told(path: Path) -> Iterator[None]:
    """What the system refuses to do with a file, as one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        mend = "free some space, then run again" if error.errno in (28, 122) else "mend the folder's rights or name another"
        raise RunError(f"{error.filename or path}: {reason}; {mend}") from error


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Let one process of this node at a time work on a path. The lock's file is kept apart, since folders of outputs hold only outputs."""
    from filelock import FileLock

    locks = Path(tempfile.gettempdir()) / f"stprivacy-locks-{os.getuid()}"
    make_own_folder(locks)
    with FileLock(locks / hashlib.sha256(str(path.absolute()).encode()).hexdigest()):
        yield


def make_own_folder(folder: Path) -> None:
    """Make a folder for this user alone. Raises RunError when it is somebody else's: in /tmp anybody may have been first."""
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        raise RunError(f"{folder}: belongs to somebody else; have it removed, or set TMPDIR to a folder of your own")
