"""Shards that stay in the storage until they are read: the same clips, each shard fetched once a node, ahead of use."""

import pickle
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch

from stprivacy.config import Clip, Train
from stprivacy.data import fetched
from stprivacy.data.clips import ShardReader
from stprivacy.data.shards import read_index, write_shards
from stprivacy.data.storage import FolderStorage, get_folder, put_folder
from stprivacy.errors import UserError
from stprivacy.training.batches import GlobalBatches
from tests.unit.test_data_shards import random_clips, write_clips

NUM_TRAIN = 67


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """67 training clips of 2 to 9 frames in eight uneven shards or so, and one clip each of val and test."""
    folder = tmp_path_factory.mktemp("data")
    clips = random_clips(*[(2 + 7 * i % 8, 8, 8) for i in range(NUM_TRAIN + 2)])
    splits = ("train",) * NUM_TRAIN + ("val", "test")
    write_shards(write_clips(folder / "clips", clips, splits), folder / "shards", 0.012)
    assert len(list((folder / "shards").glob("train-*.tar"))) > 5
    return folder / "shards"


@pytest.fixture
def left(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same data set on a node that has only its index; reads are counted in the file `fetched`."""
    store = FolderStorage(tmp_path / "store")
    put_folder(store, shards, "tiny")
    get_folder(store, "tiny", tmp_path / "node" / "shards", later=".tar")
    monkeypatch.setenv("STPRIVACY_STORAGE", str(store.root))
    monkeypatch.setenv("STPRIVACY_NODE_CACHE", str(tmp_path / "cache"))
    get = FolderStorage.get_alone

    def counted(self: FolderStorage, key: str, local: Path, sha256: str | None = None) -> None:
        with open(tmp_path / "fetched", "a") as log:
            log.write(f"{key}\n")
        get(self, key, local, sha256)

    monkeypatch.setattr(FolderStorage, "get_alone", counted)
    yield tmp_path / "node" / "shards"
    until(lambda: all(thread.name != "fetch-shards" for thread in threading.enumerate()))  # else it fetches in the next test's name


def num_fetched(tmp_path: Path) -> Counter[str]:
    log = tmp_path / "fetched"
    return Counter(log.read_text().splitlines() if log.exists() else [])


def until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_clips_are_the_same_from_here_and_from_the_storage(shards: Path, left: Path, tmp_path: Path) -> None:
    here, there = ShardReader(shards, "train"), ShardReader(left, "train")
    assert here.fetched is None
    assert not list(left.glob("*.tar"))
    for index in range(NUM_TRAIN):
        np.testing.assert_array_equal(here.read(index, 1, 3), there.read(index, 1, 3))
    counts = num_fetched(tmp_path)
    assert len(counts) == len(list(shards.glob("train-*.tar")))  # val and test are nobody's business here
    assert set(counts.values()) == {1}


def test_shards_are_fetched_ahead_of_use_in_the_order_that_is_named(left: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fetch = fetched.FetchedShards._fetch

    def slowly(self: fetched.FetchedShards, shard: str) -> Path:
        order.append(shard)
        if len(order) == 1:
            until(named.is_set)
        return fetch(self, shard)

    named = Event()
    monkeypatch.setattr(fetched.FetchedShards, "_fetch", slowly)
    reader = ShardReader(left, "train")
    until(lambda: order)  # else the thread may see the first order and the second one at once
    last_to_first = list(range(NUM_TRAIN))[::-1]
    reader.fetch_ahead(last_to_first)
    named.set()
    names = list(dict.fromkeys(reader.rows[index]["shard"] for index in last_to_first))
    until(lambda: reader.fetched is not None and len(reader.fetched.paths) == len(names))
    assert order[0] == names[-1]  # begun before the order was named
    assert [name for name in order[1:] if name != order[0]] == names[:-1]
    assert set(num_fetched(tmp_path).values()) == {1}


def test_what_the_cache_has_dropped_is_fetched_again(left: Path, tmp_path: Path) -> None:
    reader = ShardReader(left, "val")
    frames = reader.read(0, 0, 2)
    until(lambda: not (reader.fetched and reader.fetched.thread and reader.fetched.thread.is_alive()))  # it works in that folder, too
    shutil.rmtree(tmp_path / "cache")
    np.testing.assert_array_equal(reader.read(0, 0, 2), frames)
    assert list(num_fetched(tmp_path).values()) == [2]


def test_a_reader_travels_to_another_process_without_its_connections(left: Path) -> None:
    reader = ShardReader(left, "val")
    again = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(again.read(0, 0, 2), reader.read(0, 0, 2))


def test_a_shard_that_is_gone_from_the_storage_is_told_by_the_reader(left: Path, tmp_path: Path, capfd) -> None:
    shutil.rmtree(tmp_path / "store" / "objects")
    reader = ShardReader(left, "train")
    with pytest.raises(UserError, match="no such object in the storage"):
        reader.read(0, 0, 2)
    until(lambda: "warning: not fetched ahead: " in capfd.readouterr().err)


def test_shards_larger_than_the_cache_are_not_fetched_ahead_and_a_warning_says_so(
    left: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("STPRIVACY_NODE_CACHE_GB", "1e-5")
    reader = ShardReader(left, "train")
    assert "raise STPRIVACY_NODE_CACHE_GB" in capsys.readouterr().err
    reader.read(0, 0, 2)
    assert sum(num_fetched(tmp_path).values()) == 1


def test_an_index_that_needs_more_than_the_storage_has_is_refused(left: Path) -> None:
    later = left / ".later.json"
    later.write_text(later.read_text().replace('"bytes": ', '"bytes": -'))
    with pytest.raises(UserError, match="cut short or missing"):
        read_index(left)


# ------------------------------------------------------------------------------------------------ epochs over workers


@pytest.mark.parametrize(("world_size", "loader_processes"), [(1, 0), (1, 2), (2, 0), (3, 0), (4, 0), (5, 0), (5, 2)])
def test_over_any_number_of_workers_an_epoch_has_every_clip_once_but_for_what_fills_no_batch(
    left: Path, tmp_path: Path, world_size: int, loader_processes: int
) -> None:
    """67 clips of uneven shards in global batches of a multiple of the workers, of which the last, smaller one is left out."""
    global_batch = 4 * world_size
    settings = Train(global_batch=global_batch, micro_batch=2, loader_processes=loader_processes)
    clip = Clip(num_frames=2, size=8)
    for epoch in range(2):
        workers = [
            GlobalBatches(ShardReader(left, "train"), clip, settings, rank, world_size, torch.device("cpu")) for rank in range(world_size)
        ]
        steps = [[sample for part in step for sample in part.samples] for worker in workers for step in worker.epoch(epoch)]
        assert {len(step) for step in steps} == {4}
        samples = [sample for step in steps for sample in step]
        assert len(samples) == len(set(samples)) == NUM_TRAIN - NUM_TRAIN % global_batch
    assert set(num_fetched(tmp_path).values()) == {1}


# ------------------------------------------------------------------------------------------------ the stage


def test_the_stage_sends_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, project_root: Path) -> None:
    from pipelines.shard import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("STPRIVACY_STORAGE", str(tmp_path / "store"))
    monkeypatch.setattr(sys, "argv", ["shard"])
    monkeypatch.setattr("stprivacy.tracking.start", without_tracking)
    shutil.copy(project_root / "params" / "vp-synth-tiny.yaml", "params.yaml")
    name = "vp-synth-tiny"
    write_clips(Path("data/clips") / name, random_clips(*[(4, 6, 8)] * 6))
    for line in (r"store: 5 of 5 files were new", r"store: 0 of 5 files were new"):
        main()
        assert line in capsys.readouterr().out
    (tree,) = FolderStorage(tmp_path / "store").list("trees")
    get_folder(FolderStorage(tmp_path / "store"), tree.removeprefix("trees/").removesuffix(".json"), tmp_path / "other")
    assert read_index(tmp_path / "other") == read_index(Path("data/shards") / name)


def without_tracking(*_: object, **__: object):
    from contextlib import nullcontext
    from unittest.mock import Mock

    return nullcontext(Mock())
