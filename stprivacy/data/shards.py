"""Tar shards in the WebDataset layout (https://github.com/webdataset/webdataset: files of one stem are one sample), with an index.

Members are `<key>.npy` (frames) and `<key>.json` (labels). The index holds offset, length and SHA-256 of the frames, so that a
reader goes to any clip, or any window of it, without unpacking. The bytes depend on the clips alone.
"""

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stprivacy.data.storage import left_out
from stprivacy.errors import UserError

INDEX = "index.jsonl"


def write_shards(clips: Path, folder: Path, max_megabytes: float) -> dict[str, int]:
    """Pack `data/clips/<name>` into `folder`; gives the number of shards, clips and bytes. Raises UserError on a missing manifest.

    `folder` appears when all of it is written and has been read back: a killed run leaves no half of a data set behind, and what the
    disk or an offset spoiled is found here and not in training. Raises UserError then, too.
    """
    manifest = clips / "manifest.jsonl"
    if not manifest.exists():
        raise UserError(f"{manifest}: no such file; run `dvc repro preprocess`")
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    unfinished = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    index: list[dict[str, Any]] = []
    for split in ("train", "val", "test"):
        of_split = sorted((row for row in rows if row["split"] == split), key=lambda row: row["key"])
        index += _write_split(clips, unfinished, split, tqdm(of_split, desc=f"shard {split}", mininterval=5), max_megabytes * 1e6)
    shutil.copyfile(clips / "dataset.json", unfinished / "dataset.json")
    (unfinished / INDEX).write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in index))
    verify(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(unfinished, folder)
    shards = sorted(folder.glob("*.tar"))
    return {"shards": len(shards), "clips": len(index), "bytes": sum(path.stat().st_size for path in shards)}


def _write_split(clips: Path, folder: Path, split: str, rows: Iterable[dict[str, Any]], max_bytes: float) -> list[dict[str, Any]]:
    index: list[dict[str, Any]] = []
    number, tar = -1, None
    for row in rows:
        if tar is None or tar.offset > max_bytes:
            if tar is not None:
                tar.close()
            number += 1
            tar = tarfile.open(folder / f"{split}-{number:05d}.tar", "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 (closed when full)
        frames = (clips / "clips" / f"{row['key']}.npy").read_bytes()
        names = ("action", "attributes", "file", "frame_labels")
        labels = json.dumps({name: row[name] for name in names if name in row}, sort_keys=True).encode()
        offset = _add(tar, f"{row['key']}.npy", frames)
        _add(tar, f"{row['key']}.json", labels)
        place = {"shard": f"{split}-{number:05d}.tar", "member": f"{row['key']}.npy", "offset": offset, "length": len(frames)}
        index.append(row | place | {"sha256": hashlib.sha256(frames).hexdigest()})
    if tar is not None:
        tar.close()
    return index


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> int:
    """Append a member without owner or time; gives the offset of its bytes in the shard."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    tar.addfile(member, io.BytesIO(content))
    # Counted from the end: a name of more than 100 letters, as HMDB51 has, gets further header blocks in front.
    blocks = -(-len(content) // tarfile.BLOCKSIZE)
    return tar.offset - blocks * tarfile.BLOCKSIZE


def read_index(folder: Path) -> list[dict[str, Any]]:
    """The rows of the index. Raises UserError when it is missing or a shard, here or left in the storage, is shorter than it says."""
    path = folder / INDEX
    if not path.exists():
        raise UserError(f"{path}: no such file; run `dvc repro shard`")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    needed: dict[str, int] = {}
    elsewhere = left_out(folder)
    for row in rows:
        needed[row["shard"]] = max(needed.get(row["shard"], 0), row["offset"] + row["length"])
    for shard, size in needed.items():
        found = (folder / shard).stat().st_size if (folder / shard).exists() else elsewhere[shard].bytes if shard in elsewhere else 0
        if found < size:
            raise UserError(f"{folder / shard}: {found} bytes, its index needs {size}; cut short or missing: run `dvc repro -f shard`")
    return rows


def verify(folder: Path) -> int:
    """Check every member against its SHA-256; gives how many were checked. Raises UserError naming the first that differs."""
    rows = read_index(folder)
    for row in tqdm(rows, desc="read back", mininterval=5):
        with open(folder / row["shard"], "rb") as shard:
            shard.seek(row["offset"])
            if hashlib.sha256(shard.read(row["length"])).hexdigest() != row["sha256"]:
                raise UserError(f"{folder / row['shard']}: {row['member']} has other bytes than its index says; run `dvc repro -f shard`")
    return len(rows)
