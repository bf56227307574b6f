"""Tar shards and their index: other tools read them, the bytes depend on the clips alone, damage is found and named."""

import hashlib
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stprivacy.data import shards
from stprivacy.data.shards import read_index, verify, write_shards
from stprivacy.errors import UserError


def write_clips(folder: Path, clips: dict[str, np.ndarray], splits: tuple[str, ...] = ("train", "val", "test")) -> Path:
    """The outputs of preprocess for uint8 (F, H, W, 3) clips; clip i is of split i modulo 3, action i modulo 2."""
    (folder / "clips").mkdir(parents=True)
    rows = []
    for index, (key, frames) in enumerate(clips.items()):
        np.save(folder / "clips" / f"{key}.npy", frames)
        rows.append({
            "key": key, "file": f"{key}.mp4", "split": splits[index % len(splits)], "group": key,
            "action": index % 2, "attributes": [float(index % 3 == 0)],
            "num_frames": frames.shape[0], "height": frames.shape[1], "width": frames.shape[2],
        })  # fmt: skip
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "dataset.json").write_text(json.dumps({"name": "tiny", "actions": ["run", "walk"], "attributes": ["hat"]}))
    return folder


def random_clips(*shapes: tuple[int, int, int]) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {f"clip{i}": draw.integers(0, 256, (*shape, 3), dtype=np.uint8) for i, shape in enumerate(shapes)}


shapes = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=9)
names = st.lists(st.text("abc_-0", min_size=1, max_size=150), min_size=9, max_size=9, unique=True)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(shapes, names, st.sampled_from([1e-6, 2e-3, 1.0]))
def test_tarfile_finds_every_clip_where_the_index_says(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple[int, int, int]], names: list[str], max_megabytes: float
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    clips = dict(zip(names, random_clips(*shapes).values(), strict=False))
    write_shards(write_clips(folder / "clips", clips), folder / "shards", max_megabytes)
    index = read_index(folder / "shards")
    assert {row["key"] for row in index} == clips.keys()
    for row in index:
        with tarfile.open(folder / "shards" / row["shard"]) as tar:
            member = tar.getmember(row["member"])
            assert (member.offset_data, member.size) == (row["offset"], row["length"])
            content = tar.extractfile(member).read()  # type: ignore[union-attr]
            labels = json.load(tar.extractfile(f"{row['key']}.json"))  # type: ignore[arg-type]
        assert hashlib.sha256(content).hexdigest() == row["sha256"]
        assert content == (folder / "clips" / "clips" / f"{row['key']}.npy").read_bytes()
        assert (labels["action"], labels["attributes"]) == (row["action"], row["attributes"])
        assert row["shard"].startswith(f"{row['split']}-")
    assert verify(folder / "shards") == len(clips)


def test_shards_depend_on_the_clips_alone(tmp_path: Path) -> None:
    clips = random_clips(*[(4, 6, 8)] * 7)
    write_shards(write_clips(tmp_path / "a", clips), tmp_path / "one", 1)
    write_clips(tmp_path / "b", clips)
    for path in (tmp_path / "b" / "clips").iterdir():
        os.utime(path, (1, 1))
        path.chmod(0o600)
    manifest = tmp_path / "b" / "manifest.jsonl"
    manifest.write_text("".join(reversed(manifest.read_text().splitlines(keepends=True))))
    write_shards(tmp_path / "b", tmp_path / "two", 1)
    assert {p.name: p.read_bytes() for p in (tmp_path / "one").iterdir()} == {p.name: p.read_bytes() for p in (tmp_path / "two").iterdir()}


def test_a_shard_is_closed_when_it_has_grown_beyond_its_size(tmp_path: Path) -> None:
    clips = random_clips(*[(10, 10, 10)] * 9)  # 5,120 bytes each with headers and labels, all of one split
    counts = write_shards(write_clips(tmp_path / "clips", clips, ("train",)), tmp_path / "shards", 0.010)
    index = read_index(tmp_path / "shards")
    per_shard = [sum(row["shard"] == f"train-{number:05d}.tar" for row in index) for number in range(counts["shards"])]
    assert (counts["shards"], counts["clips"], per_shard) == (5, 9, [2, 2, 2, 2, 1])


def test_a_wrong_byte_is_found_and_its_shard_named(tmp_path: Path) -> None:
    write_shards(write_clips(tmp_path / "clips", random_clips((4, 6, 8), (4, 6, 8), (4, 6, 8))), tmp_path / "shards", 1)
    shard = tmp_path / "shards" / "val-00000.tar"
    row = next(row for row in read_index(tmp_path / "shards") if row["split"] == "val")
    content = bytearray(shard.read_bytes())
    content[row["offset"] + row["length"] - 1] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"val-00000\.tar: clip1\.npy has other bytes"):
        verify(tmp_path / "shards")


def test_shards_that_do_not_read_back_as_their_index_says_never_appear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = write_clips(tmp_path / "clips", random_clips((4, 6, 8), (4, 6, 8), (4, 6, 8)))
    write_shards(clips, tmp_path / "shards", 1)
    before = {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()}
    add = shards._add
    monkeypatch.setattr(shards, "_add", lambda tar, name, content: add(tar, name, content) - 1)
    with pytest.raises(UserError, match=r"train-00000\.tar: clip0\.npy has other bytes"):
        write_shards(clips, tmp_path / "shards", 1)
    assert {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()} == before


def test_a_truncated_or_missing_shard_is_named(tmp_path: Path) -> None:
    write_shards(write_clips(tmp_path / "clips", random_clips((4, 6, 8), (4, 6, 8))), tmp_path / "shards", 1)
    shard = tmp_path / "shards" / "train-00000.tar"
    row = next(row for row in read_index(tmp_path / "shards") if row["split"] == "train")
    os.truncate(shard, row["offset"] + row["length"] - 1)
    with pytest.raises(UserError, match=r"train-00000\.tar: .*cut short"):
        read_index(tmp_path / "shards")
    shard.unlink()
    with pytest.raises(UserError, match=r"train-00000\.tar: 0 bytes"):
        read_index(tmp_path / "shards")


def test_a_run_that_is_stopped_leaves_the_old_shards_and_no_half_of_new_ones(tmp_path: Path) -> None:
    write_shards(write_clips(tmp_path / "clips", random_clips((4, 6, 8), (4, 6, 8))), tmp_path / "shards", 1)
    before = {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()}
    (tmp_path / "clips" / "clips" / "clip1.npy").unlink()
    with pytest.raises(FileNotFoundError):
        write_shards(tmp_path / "clips", tmp_path / "shards", 1)
    assert {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()} == before


def test_shards_without_clips_and_reading_without_shards_say_which_stage_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `dvc repro preprocess`"):
        write_shards(tmp_path / "none", tmp_path / "shards", 1)
    with pytest.raises(UserError, match="run `dvc repro shard`"):
        read_index(tmp_path / "shards")
