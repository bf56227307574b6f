"""Storage in a folder, and a node's cache of any storage: what is put comes back whole or not at all."""

import errno
import json
import multiprocessing
import os
import shutil
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stprivacy.data import cache, storage
from stprivacy.data.cache import NodeCache
from stprivacy.data.storage import FolderStorage, checked_key, file_sha256, get_folder, left_out, open_storage, put_folder, tree_key
from stprivacy.errors import RunError, UserError


@pytest.fixture
def store(tmp_path: Path) -> FolderStorage:
    return FolderStorage(tmp_path / "store")


def filled(folder: Path, **contents: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_text(content)
    return folder


def held(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------ which storage


def test_the_environment_says_which_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STPRIVACY_STORAGE", raising=False)
    with pytest.raises(UserError, match="^STPRIVACY_STORAGE: not set; give a folder or s3://"):
        open_storage()
    monkeypatch.setenv("STPRIVACY_STORAGE", str(tmp_path))
    assert open_storage().url == str(tmp_path)
    assert open_storage(str(tmp_path / "other")).url == str(tmp_path / "other")
    for url, message in {"gs://bucket": "neither a folder nor s3://", "s3:///prefix": "names no bucket", "s3://b/../c": "no key"}.items():
        with pytest.raises(UserError, match=message):
            open_storage(url)


# ------------------------------------------------------------------------------------------------ files


def test_a_file_comes_back_as_it_was_put(store: FolderStorage, tmp_path: Path) -> None:
    source = filled(tmp_path / "in", a="content") / "a"
    digest = store.put(source, "models/a")
    store.get("models/a", tmp_path / "out" / "a", digest)
    assert held(tmp_path / "out") == {"a": "content"}
    assert store.list("") == {"models/a": 7}
    assert store.delete("models") == ["models/a"]
    assert list(store.root.iterdir()) == []


def test_the_same_content_is_not_written_again(store: FolderStorage, tmp_path: Path) -> None:
    source = filled(tmp_path / "in", a="content") / "a"
    store.put(source, "a")
    before = (store.root / "a").stat().st_ino
    store.put(source, "a")
    assert (store.root / "a").stat().st_ino == before
    source.write_text("CONTENT")
    store.put(source, "a")
    assert store.get_bytes("a") == b"CONTENT"


def test_a_prefix_is_whole_parts_of_a_path(store: FolderStorage) -> None:
    for key in ("clips/vp/a", "clips/vp-hmdb51/a", "clips/vp-hmdb51/b/c"):
        store.put_bytes(key, b"x")
    assert list(store.list("clips/vp")) == ["clips/vp/a"]
    assert store.delete("clips/vp") == ["clips/vp/a"]
    assert list(store.list("clips")) == ["clips/vp-hmdb51/a", "clips/vp-hmdb51/b/c"]
    assert store.list("none") == {}
    assert (store.exists("clips/vp-hmdb51/a"), store.exists("clips/vp-hmdb51"), store.exists("none")) == (True, False, False)
    with pytest.raises(UserError):
        store.delete("")


def test_a_folder_that_somebody_else_removes_or_fills_meanwhile_is_no_failure(store, monkeypatch):
    """Two trials of a sweep that end together clear the same storage."""
    store.put_bytes("runs/trials/a/x", b"1")

    def raced(self: Path) -> None:
        raise OSError(errno.ENOTEMPTY, "not empty") if self.name == "trials" else FileNotFoundError(errno.ENOENT, "gone")

    monkeypatch.setattr(Path, "rmdir", raced)
    assert store.delete("runs/trials/a") == ["runs/trials/a/x"]
    assert not store.exists("runs/trials/a/x")


def test_what_somebody_else_removes_while_it_is_listed_is_left_out(store: FolderStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker asks which checkpoints there are while another one removes the oldest."""
    for key in ("runs/train/game-0001/model", "runs/train/game-0002/model"):
        store.put_bytes(key, b"1")
    walk = os.walk

    def raced(top: Path) -> list:
        seen = list(walk(top))
        shutil.rmtree(store.root / "runs/train/game-0001")
        return seen

    monkeypatch.setattr(storage.os, "walk", raced)
    assert store.list("runs/train") == {"runs/train/game-0002/model": 1}


@given(st.text("a./\\\0", max_size=8))
def test_no_key_leads_out_of_the_storage(key: str) -> None:
    root = Path("/root/of/storage")
    try:
        path = Path(os.path.normpath(root / checked_key(key)))
    except UserError:
        return
    assert root in path.parents
    assert path == root / key


def test_a_missing_object_is_told(store: FolderStorage, tmp_path: Path) -> None:
    for call in (lambda: store.get_bytes("a"), lambda: store.get("a", tmp_path / "a"), lambda: get_folder(store, "a", tmp_path / "a")):
        with pytest.raises(UserError, match=r"store/.*: no such object in the storage"):
            call()
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("damage", ["other", "cont", "content and more"])
def test_other_bytes_than_were_put_never_take_the_place_of_a_file(store: FolderStorage, tmp_path: Path, damage: str) -> None:
    source = filled(tmp_path / "in", a="content") / "a"
    digest = store.put(source, "a")
    (store.root / "a").write_text(damage)
    filled(tmp_path / "out", a="old")
    with pytest.raises(RunError, match=r"store/a: has other bytes than were put there .* delete it, put it again"):
        store.get("a", tmp_path / "out" / "a", digest)
    assert held(tmp_path / "out") == {"a": "old"}


def test_a_full_disk_is_one_line_and_leaves_nothing(store: FolderStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = filled(tmp_path / "in", a="content") / "a"
    store.put(source, "a")

    def full(_: object, target: Path) -> None:
        target.write_text("con")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    for call in (lambda: store.put(source, "b"), lambda: store.get("a", tmp_path / "out" / "a")):
        with pytest.raises(RunError, match="No space left on device; free some space, then run again"):
            call()
    assert held(store.root) == {"a": "content"}
    assert held(tmp_path / "out") == {}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_rights_is_one_line(store: FolderStorage) -> None:
    store.root.mkdir(mode=0o500)
    with pytest.raises(RunError, match="Permission denied; mend the folder's rights"):
        store.put_bytes("a", b"x")


# ------------------------------------------------------------------------------------------------ folders


def test_of_a_folder_only_what_is_new_is_put(store: FolderStorage, tmp_path: Path) -> None:
    folder = filled(tmp_path / "in", a="1", b="2")
    assert put_folder(store, folder, "one") == 2
    (folder / "same").write_text("1")
    assert put_folder(store, folder, "two") == 0
    (folder / "b").write_text("3")
    assert put_folder(store, folder, "one") == 1
    get_folder(store, "one", tmp_path / "out")
    assert held(tmp_path / "out") == {"a": "1", "b": "3", "same": "1"}
    get_folder(store, "two", tmp_path / "out")
    assert held(tmp_path / "out") == {"a": "1", "b": "2", "same": "1"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "store"]


def test_a_folder_that_is_as_it_should_be_is_left_alone(store: FolderStorage, tmp_path: Path) -> None:
    folder = filled(tmp_path / "in", a="1")
    put_folder(store, folder, "one")
    before = (folder / "a").stat().st_ino
    get_folder(store, "one", folder)
    assert (folder / "a").stat().st_ino == before
    (folder / "more").write_text("not of the tree")
    get_folder(store, "one", folder)
    assert held(folder) == {"a": "1"}


def test_a_broken_off_transfer_of_a_folder_goes_on_and_the_old_folder_stays_meanwhile(store: FolderStorage, tmp_path: Path) -> None:
    put_folder(store, filled(tmp_path / "in", a="1", b="2"), "one")
    target = filled(tmp_path / "out", a="old")
    lost = store.root / "objects" / file_sha256(tmp_path / "in" / "b")
    lost.rename(tmp_path / "kept")
    with pytest.raises(UserError, match="no such object"):
        get_folder(store, "one", target)
    assert held(target) == {"a": "old"}
    (store.root / "objects" / file_sha256(tmp_path / "in" / "a")).unlink()  # it is in the part folder already
    (tmp_path / "kept").rename(lost)
    get_folder(store, "one", target)
    assert held(target) == {"a": "1", "b": "2"}


def test_files_that_are_left_in_the_storage_are_listed(store: FolderStorage, tmp_path: Path) -> None:
    folder = filled(tmp_path / "in", index="1", big="2")
    (folder / "big").rename(folder / "big.tar")
    put_folder(store, folder, "one")
    get_folder(store, "one", tmp_path / "out", later=".tar")
    assert sorted(held(tmp_path / "out")) == [storage.LATER, "index"]
    assert {name: entry.sha256 for name, entry in left_out(tmp_path / "out").items()} == {"big.tar": file_sha256(folder / "big.tar")}
    assert left_out(folder) == {}
    get_folder(store, "one", tmp_path / "out")
    assert held(tmp_path / "out") == {"index": "1", "big.tar": "2"}


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        "[]",
        '{"files": []}',
        '{"files": {"a": {"sha256": "12", "bytes": 1}}}',
        json.dumps({"files": {"../a": {"sha256": "0" * 64, "bytes": 1}}}),
        json.dumps({"files": {"/etc/a": {"sha256": "0" * 64, "bytes": 1}}}),
    ],
)
def test_a_tree_that_is_none_or_leads_elsewhere_is_refused(store: FolderStorage, tmp_path: Path, content: str) -> None:
    store.put_bytes(tree_key("one"), content.encode())
    with pytest.raises(UserError):
        get_folder(store, "one", tmp_path / "deep" / "out")
    assert not (tmp_path / "deep").exists()


def test_what_a_run_keeps_is_content_of_its_own(store: FolderStorage, tmp_path: Path) -> None:
    """So it can be deleted, by age too, and what others have of the same bytes stays."""
    folder = filled(tmp_path / "in", a="1")
    assert put_folder(store, folder, "one") == put_folder(store, folder, "runs/trials/abc") == 1
    assert put_folder(store, folder, "runs/trials/abc") == 0
    sha256 = file_sha256(folder / "a")
    assert list(store.list("")) == [
        f"objects/{sha256}", f"runs/trials/abc/objects/{sha256}", "trees/one.json", "trees/runs/trials/abc.json"
    ]  # fmt: skip
    store.delete("objects")
    get_folder(store, "runs/trials/abc", tmp_path / "out")
    assert held(tmp_path / "out") == {"a": "1"}


def test_an_empty_folder_is_refused(store: FolderStorage, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no files here to put"):
        put_folder(store, tmp_path / "none", "one")


# ------------------------------------------------------------------------------------------------ a node's cache


class Counting(FolderStorage):
    """Counts what is fetched, in a file, so that processes count together; takes its time, so that they meet."""

    def get_alone(self, key: str, local: Path, sha256: str | None = None) -> None:
        with open(self.root.with_name("fetched"), "a") as log:
            log.write(f"{key}\n")
        time.sleep(0.2)
        super().get_alone(key, local, sha256)


def put_objects(store: FolderStorage, tmp_path: Path, *contents: str) -> list[str]:
    sums = []
    for content in contents:
        source = filled(tmp_path / "in", file=content) / "file"
        sums.append(file_sha256(source))
        store.put(source, f"objects/{sums[-1]}")
    return sums


def _fetch(root: Path, folder: Path, sha256: str) -> None:
    NodeCache(folder, 1000).fetch(Counting(root), sha256)


def test_all_processes_of_a_node_fetch_an_object_once(store: FolderStorage, tmp_path: Path) -> None:
    (sha256,) = put_objects(store, tmp_path, "content")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_fetch, args=(store.root, tmp_path / "cache", sha256)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / "fetched").read_text() == f"objects/{sha256}\n"
    assert held(tmp_path / "cache") == {sha256: "content"}
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700


def test_the_longest_unused_go_when_the_cache_is_full_but_none_that_is_in_use(
    store: FolderStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third, fourth = put_objects(store, tmp_path, *(letter * 100 for letter in "abcd"))
    node = NodeCache(tmp_path / "cache", 250)
    for sha256 in (first, second, third):
        node.fetch(store, sha256)
    assert len(held(node.folder)) == 3  # above the limit: all were asked for just now
    monkeypatch.setattr(cache, "GRACE_S", 60.0)
    for age, sha256 in ((300, first), (500, second), (400, third)):
        os.utime(node.folder / sha256, (time.time() - age,) * 2)
    node.fetch(store, first)  # used again
    node.fetch(store, fourth)
    assert held(node.folder).keys() == {first, fourth}


def test_the_cache_drops_what_killed_processes_left_and_lets_others_end_meanwhile(store: FolderStorage, tmp_path: Path) -> None:
    (sha256,) = put_objects(store, tmp_path, "content")
    folder = filled(tmp_path / "cache", **{".left.0.part": "half", ".going-on.1.part": "half"})
    os.utime(folder / ".left.0.part", (time.time() - 2 * cache.ABANDONED_S,) * 2)
    for name in (".ended.2.part", "0" * 64):
        (folder / name).symlink_to("nothing")  # listed, and not there when it is looked at
    NodeCache(folder, 1000).fetch(store, sha256)
    assert held(folder) == {".going-on.1.part": "half", sha256: "content"}


def test_the_cache_refuses_a_key_without_checksum_and_other_bytes(store: FolderStorage, tmp_path: Path) -> None:
    store.put_bytes("models/a", b"x")
    node = NodeCache(tmp_path / "cache", 1000)
    with pytest.raises(UserError, match="models/a: the node's cache needs its SHA-256"):
        node.fetch(store, "models/a")
    with pytest.raises(RunError, match="has other bytes"):
        node.fetch(store, "models/a", "0" * 64)
    assert held(node.folder) == {}


def test_the_cache_s_size_is_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STPRIVACY_NODE_CACHE", str(tmp_path / "node"))
    monkeypatch.setenv("STPRIVACY_NODE_CACHE_GB", "0.5")
    assert (NodeCache.of_this_node().folder, NodeCache.of_this_node().max_bytes) == (tmp_path / "node", 500_000_000)
    for bad in ("0", "-1", "many", "inf", "nan"):
        monkeypatch.setenv("STPRIVACY_NODE_CACHE_GB", bad)
        with pytest.raises(UserError, match="STPRIVACY_NODE_CACHE_GB = .*: must be a number of gigabytes above 0"):
            NodeCache.of_this_node()
