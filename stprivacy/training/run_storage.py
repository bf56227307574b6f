"""Where a run keeps what it needs to go on. Here: in .cache/stprivacy. In a job: in STPRIVACY_STORAGE as well, under `runs/`.

The nodes of a cluster share no disk, and a job's folder is gone when the job is. So what is finished on one node (a game's checkpoints,
a trial, a release, an attacker) is kept in the storage under its path below .cache/stprivacy, and brought to the node that asks for it.
The names of these folders are hashes of what they were made from: what is there is right, whoever made it. The bucket may delete by age
what is below `runs/`: a folder of which something is gone counts as one that nobody has kept, and is made and kept again.
"""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from stprivacy.config.job import JobEnvironment
from stprivacy.data.storage import (
    RUNS,
    TREES,
    Entry,
    FolderStorage,
    Storage,
    alone,
    get_folder,
    objects_of,
    open_storage,
    put_folder,
    read_tree,
    tree_key,
)
from stprivacy.errors import UserError

CACHE = Path(".cache/stprivacy")
HASH = re.compile(r"[0-9a-f]{12}")
"""What the name of a finished folder is."""


def ray_storage(folder: Path) -> tuple[str, Any]:
    """(storage_path, storage_filesystem) for Ray Train and Tune: `folder` itself, or, in a job, its place in the storage.

    The filesystem is one of pyarrow's, None for a disk.
    """
    if not _in_job():
        return str(folder.absolute()), None
    storage = open_storage()
    if isinstance(storage, FolderStorage):
        return str(storage.root / _key(folder)), None
    import s3fs  # type: ignore[import-untyped]
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    from stprivacy.data.storage_s3 import S3Storage

    assert isinstance(storage, S3Storage)
    # Not pyarrow's own S3FileSystem: it makes objects named after folders and sends parts without a length, which not every server takes.
    bucket = s3fs.S3FileSystem(endpoint_url=storage.client.meta.endpoint_url, use_listings_cache=False)
    return f"{storage.bucket}/{storage.prefix}{_key(folder)}", PyFileSystem(FSSpecHandler(bucket))


def place(folder: Path) -> tuple[str, str]:
    """(URL, key) in a storage for what is written below `folder` piece by piece: the folder itself, or, in a job, its place there."""
    return (open_storage().url, _key(folder)) if _in_job() else (str(folder.absolute()), "")


def keep(folder: Path) -> None:
    """In a job: put a finished folder of the cache into the storage. Elsewhere: nothing."""
    if _in_job():
        storage = open_storage()
        if _kept(folder, storage) is None:
            put_folder(storage, folder, _key(folder))


def bring(folder: Path) -> bool:
    """Is the finished folder here? In a job, if it is in the storage: what this node lacks of it, or has half written, is fetched.

    A folder of a job that nobody has kept is as good as none to the other nodes, whatever there is of it here. Without a job, a folder
    that exists counts; one that is written piece by piece gets a file at the end by which its reader knows it.
    """
    if not _in_job() or (folder.exists() and not _cached(folder)):  # such as models/init, which every node has as an input
        return folder.exists()
    storage = open_storage()
    tree = _kept(folder, storage)
    if tree is None:
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with alone(folder.with_name(folder.name + ".brought")):  # get_folder takes the lock of the folder itself
        if not _whole(folder, tree):
            get_folder(storage, _key(folder), folder)
    return True


def _kept(folder: Path, storage: Storage) -> dict[str, Entry] | None:
    """The tree that was kept of a folder; None where there is none, or not all of its content is there any more."""
    key = _key(folder)
    if not storage.exists(tree_key(key)):
        return None
    tree, objects = read_tree(storage, key), objects_of(key)
    there = storage.list(objects)
    return tree if all(there.get(f"{objects}/{entry.sha256}") == entry.bytes for entry in tree.values()) else None


def _whole(folder: Path, tree: dict[str, Entry]) -> bool:
    """Has it every file of the tree, of that size? Not by checksums: it is asked by each task, of hundreds of megabytes."""
    return all((file := folder / name).is_file() and file.stat().st_size == entry.bytes for name, entry in tree.items())


def forget(folder: Path) -> None:
    """In a job: remove from the storage what was kept of a folder that nobody will ask for again, and of those within it.

    Trees, their content, which is theirs alone, and what Ray or a training kept there piece by piece.
    """
    if _in_job():
        storage = open_storage()
        storage.delete(f"{TREES}/{_key(folder)}")  # trees first: none may name what is gone
        storage.delete(tree_key(_key(folder)))
        storage.delete(_key(folder))


def keep_file(path: Path) -> None:
    """In a job: put a small file of the cache that has grown into the storage. Elsewhere: nothing."""
    if _in_job():
        open_storage().put_bytes(_key(path), path.read_bytes())


def bring_file(path: Path) -> None:
    """In a job: have the file as it was kept last, where it was, whatever an earlier job has left of it on this node."""
    if _in_job() and (storage := open_storage()).exists(_key(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(storage.get_bytes(_key(path)))


def bring_paths(value: Any) -> None:
    """Bring what a task reads: every folder of the cache that its arguments (or a task's result) name, and the one it would write."""
    if _in_job():
        for folder in _folders(value):
            bring(folder)
        for folder in _own_folders(value):  # after those above: they are named by hashes of what is in them
            bring(folder)


def keep_paths(result: Any, arguments: tuple = ()) -> None:
    """Keep what a task has made: every folder of the cache that its result names, and the one in which its arguments say it worked."""
    if _in_job():
        for folder in (*_folders(result), *_own_folders(arguments)):
            keep(folder)


def _own_folders(arguments: Any) -> Iterator[Path]:
    """Where jobs among the arguments work: their `folder`. The result of one, such as an `Inversion`, may name no path."""
    for part in arguments if isinstance(arguments, (tuple, list)) else ():
        if isinstance(own := getattr(part, "folder", None), Path):
            yield own


def _folders(value: Any) -> Iterator[Path]:
    """Folders named by a hash, within tuples, lists and dataclasses. Of a file (a path with a suffix), its folder."""
    if isinstance(value, Path):
        folder = value.parent if value.suffix else value
        if HASH.fullmatch(folder.name) and _cached(folder):
            yield folder
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _folders(part)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _folders(getattr(value, field.name))


def _in_job() -> bool:
    return JobEnvironment.read() is not None


def _cached(folder: Path) -> bool:
    return CACHE.as_posix() in folder.as_posix()


def _key(folder: Path) -> str:
    """`runs/<path below .cache/stprivacy>`. Raises UserError for a folder that isn't there."""
    parts = folder.parts
    for at in range(len(parts) - 1):
        if parts[at : at + 2] == CACHE.parts:
            return "/".join((RUNS, *parts[at + 2 :]))
    raise UserError(f"{folder}: not below {CACHE}; only what is there can be kept for other nodes")
