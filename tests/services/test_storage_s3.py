"""Storage on real S3 servers: what is put comes back, and every fault is one line and leaves nothing half-written."""

import errno
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from boto3.s3.transfer import TransferConfig

from stprivacy.config import WeizmannDataset
from stprivacy.data import storage_s3
from stprivacy.data.cache import NodeCache
from stprivacy.data.purge import removals
from stprivacy.data.raw_videos import get_videos, put_videos
from stprivacy.data.storage import get_folder, open_storage, put_folder
from stprivacy.errors import RunError, UserError
from tests.services.s3 import S3Server, rclone_server

pytestmark = pytest.mark.timeout(240)  # Servers start within a second, but beside trainings on two cores nothing is sure.


@pytest.fixture(params=["s3", "moto_s3"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    server: S3Server = request.getfixturevalue(request.param)
    return used(server, monkeypatch)


@pytest.fixture
def rclone(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    return used(s3, monkeypatch)


def used(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in (server.environ() | {"STPRIVACY_STORAGE": server.url("some/prefix")}).items():
        monkeypatch.setenv(name, value)
    return server


def random_file(path: Path, size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ------------------------------------------------------------------------------------------------ what is put comes back


@pytest.mark.parametrize("size", [0, 1000, storage_s3.PART + 1, 2 * storage_s3.PART])
def test_a_file_comes_back_as_it_was_put(server: S3Server, tmp_path: Path, size: int) -> None:
    storage, source = open_storage(), random_file(tmp_path / "in", size)
    digest = storage.put(source, "models/one.safetensors")
    assert digest == sha256(source)
    storage.get("models/one.safetensors", tmp_path / "back" / "out", digest)
    assert sha256(tmp_path / "back" / "out") == digest
    assert left_in(tmp_path / "back") == ["out"]
    assert storage.list("") == {"models/one.safetensors": size}


@pytest.mark.parametrize("size", [1000, storage_s3.PART + 1])
def test_content_that_is_there_is_not_sent_again_and_other_content_is(server: S3Server, tmp_path: Path, size: int) -> None:
    storage, source = open_storage(), random_file(tmp_path / "in", size)
    storage.put(source, "a")
    sent: list[str] = []
    storage.client.meta.events.register("before-call.s3", lambda model, **_: sent.append(model.name))  # type: ignore[attr-defined]
    storage.put(source, "a")
    assert sent == ["HeadObject"]
    random_file(source, size)
    storage.put(source, "a")
    assert len(sent) > 2
    storage.get("a", tmp_path / "out")
    assert sha256(tmp_path / "out") == sha256(source)


def test_keys_are_listed_and_removed_by_whole_parts_of_their_path(server: S3Server) -> None:
    storage = open_storage()
    for key in ("clips/vp", "clips/vp-hmdb51/a", "clips/vp-hmdb51/b/c", "clip"):
        storage.put_bytes(key, key.encode())
    assert storage.list("clips/vp") == {"clips/vp": 8}
    assert storage.list("clips/vp-hmdb51") == {"clips/vp-hmdb51/a": 17, "clips/vp-hmdb51/b/c": 19}
    assert storage.list("none") == {}
    assert (storage.exists("clips/vp"), storage.exists("clips/v"), storage.exists("clips/vp-hmdb51")) == (True, False, False)
    assert storage.get_bytes("clips/vp-hmdb51/b/c") == b"clips/vp-hmdb51/b/c"
    assert storage.delete("clips/vp") == ["clips/vp"]
    assert storage.delete("clips/vp-hmdb51") == ["clips/vp-hmdb51/a", "clips/vp-hmdb51/b/c"]
    assert storage.delete("clips/vp-hmdb51") == []
    assert open_storage(server.url()).list("some") == {"some/prefix/clip": 4}


def test_a_thousand_and_one_keys_are_listed_and_removed(rclone: S3Server) -> None:
    folder = rclone.folder / rclone.bucket / "some" / "prefix" / "many"
    folder.mkdir(parents=True)
    for number in range(1001):
        (folder / f"{number:04}").touch()
    storage = open_storage()
    assert len(storage.list("many")) == 1001
    assert len(storage.delete("many")) == 1001
    assert storage.list("") == {}


def test_of_a_folder_only_what_is_new_travels(server: S3Server, tmp_path: Path) -> None:
    storage, folder = open_storage(), tmp_path / "in"
    for name in ("a", "sub/b", "sub/c"):
        random_file(folder / name, 5000)
    assert put_folder(storage, folder, "data/shards/tiny") == 3
    assert put_folder(storage, folder, "data/shards/tiny") == 0
    random_file(folder / "sub/c", 5000)
    (folder / "a").rename(folder / "d")
    assert put_folder(storage, folder, "data/shards/tiny") == 1
    get_folder(storage, "data/shards/tiny", tmp_path / "out" / "tiny")
    assert {path.name: sha256(path) for path in (tmp_path / "out").rglob("*") if path.is_file()} == {
        path.name: sha256(path) for path in folder.rglob("*") if path.is_file()
    }
    assert left_in(tmp_path / "out") == ["tiny"]


def test_raw_videos_go_to_the_bucket_come_back_and_are_purged(rclone: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STPRIVACY_NODE_CACHE", str(tmp_path / "cache"))
    storage, dataset = open_storage(), WeizmannDataset(kind="weizmann", name="weizmann", source="videos")
    for name in ("daria_run.avi", "sub/daria_walk.avi"):
        random_file(tmp_path / "here" / "videos" / name, 5000)
    assert [put_videos(storage, dataset, tmp_path / "here") for _ in range(2)] == [2, 0]
    assert [get_videos(storage, dataset, tmp_path / "there") for _ in range(2)] == [2, 0]
    assert sha256(tmp_path / "there/videos/sub/daria_walk.avi") == sha256(tmp_path / "here/videos/sub/daria_walk.avi")
    assert removals("weizmann", tmp_path, storage) == []
    for removal in removals("weizmann", tmp_path, storage, raw=True):
        removal.remove()
    assert storage.list("") == {}


# ------------------------------------------------------------------------------------------------ a server that goes and comes back


@pytest.fixture
def slow(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    """A server that takes seconds for a file of these tests: it sends 2 MiB a second, after at most 4 MiB that it has saved up."""
    with rclone_server(tmp_path_factory.mktemp("s3") / "slow", "--bwlimit", "2M") as server:
        used(server, monkeypatch)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "6")
        yield server


def interrupt(server: S3Server, when) -> threading.Thread:
    """Kill the server when `when()` says so, and start it again a second later."""

    def run() -> None:
        while not when():
            time.sleep(0.01)
        server.kill()
        time.sleep(1)
        server.start()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_a_download_goes_on_where_a_killed_server_broke_it(slow: S3Server, tmp_path: Path) -> None:
    source = random_file(slow.folder / slow.bucket / "some" / "prefix" / "big", 8_000_000)
    storage, part = open_storage(), tmp_path / "out" / ".big.part"
    ranges: list[str] = []
    storage.client.meta.events.register("before-call.s3.GetObject", lambda params, **_: ranges.append(params["headers"]["Range"]))  # type: ignore[attr-defined]
    fault = interrupt(slow, lambda: part.exists() and part.stat().st_size > 2_000_000)
    storage.get("big", tmp_path / "out" / "big", sha256(source))
    fault.join()
    assert sha256(tmp_path / "out" / "big") == sha256(source)
    assert left_in(tmp_path / "out") == ["big"]
    assert ranges[0] == "bytes=0-"
    assert int(re.findall(r"\d+", ranges[-1])[0]) >= 2_000_000


@pytest.mark.slow
def test_an_upload_begins_again_when_the_server_has_forgotten_its_parts(slow: S3Server, tmp_path: Path) -> None:
    storage, source = open_storage(), random_file(tmp_path / "in", 8_000_000)
    storage.transfer = TransferConfig(multipart_threshold=2_000_000, multipart_chunksize=2_000_000, max_concurrency=1)  # type: ignore[attr-defined]
    calls: list[str] = []
    storage.client.meta.events.register("before-call.s3", lambda model, **_: calls.append(model.name))  # type: ignore[attr-defined]
    fault = interrupt(slow, lambda: calls.count("UploadPart") == 2)
    digest = storage.put(source, "big")
    fault.join()
    assert calls.count("CreateMultipartUpload") == 2
    storage.get("big", tmp_path / "out", digest)
    assert storage.list("") == {"big": 8_000_000}


def test_the_part_file_of_a_killed_process_is_gone_on_with(rclone: S3Server, tmp_path: Path) -> None:
    storage, source = open_storage(), random_file(tmp_path / "in", 5000)
    digest = storage.put(source, f"objects/{sha256(source)}")
    (tmp_path / ".out.part").write_bytes(source.read_bytes()[:3000])
    ranges: list[str] = []
    storage.client.meta.events.register("before-call.s3.GetObject", lambda params, **_: ranges.append(params["headers"]["Range"]))  # type: ignore[attr-defined]
    storage.get(f"objects/{digest}", tmp_path / "out")
    assert ranges == ["bytes=3000-"]
    assert sha256(tmp_path / "out") == digest


def test_a_part_file_of_something_else_is_fetched_anew(rclone: S3Server, tmp_path: Path) -> None:
    storage, source = open_storage(), random_file(tmp_path / "in", 5000)
    digest = storage.put(source, "a")
    for stale in (os.urandom(3000), os.urandom(6000), os.urandom(5000)):
        (tmp_path / ".out.part").write_bytes(stale)
        storage.get("a", tmp_path / "out", digest)
        assert sha256(tmp_path / "out") == digest


def test_two_writers_of_one_folder_leave_the_whole_of_one(server: S3Server, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        for name in ("x", "y", "z"):
            random_file(folder / name, 2000)
    threads = [threading.Thread(target=put_folder, args=(open_storage(), folder, "models/one")) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    get_folder(open_storage(), "models/one", tmp_path / "out")
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert found in [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]


# ------------------------------------------------------------------------------------------------ what cannot be done is said


def every_call(source: Path, target: Path) -> dict[str, Callable[[], object]]:
    storage = open_storage()
    return {
        "put": lambda: storage.put(source, "a"),
        "get": lambda: storage.get("a", target / "out"),
        "put_bytes": lambda: storage.put_bytes("a", b"x"),
        "get_bytes": lambda: storage.get_bytes("a"),
        "exists": lambda: storage.exists("a"),
        "list": lambda: storage.list("a"),
        "delete": lambda: storage.delete("a"),
        "put_folder": lambda: put_folder(storage, source.parent, "trees"),
        "get_folder": lambda: get_folder(storage, "trees", target / "folder"),
    }


def said_by_every_call(tmp_path: Path, kind: type[Exception]) -> set[str]:
    """What each call says, without the key; nothing may be left where files would have gone."""
    source, target = random_file(tmp_path / "in" / "file", 100), tmp_path / "out"
    target.mkdir()
    said = set()
    for name, call in every_call(source, target).items():
        with pytest.raises(kind) as caught:
            call()
        assert "\n" not in str(caught.value), name
        said.add(re.sub(r"(?<=prefix)/[^:]*", "", str(caught.value)))
    assert left_in(target) == []
    return said


def test_a_wrong_secret_is_told_by_every_call(rclone: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guessed")
    for said in said_by_every_call(tmp_path, UserError):
        assert re.fullmatch(
            r"s3://stprivacy-test/some/prefix: refused \((403|SignatureDoesNotMatch)\); check AWS_ACCESS_KEY_ID, .*", said
        ), said


def test_no_credentials_at_all_are_told_by_every_call(rclone: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    (said,) = said_by_every_call(tmp_path, UserError)
    assert said.startswith("s3://stprivacy-test/some/prefix: no credentials found; set AWS_ACCESS_KEY_ID and")


def test_a_missing_bucket_is_told_by_every_call(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STPRIVACY_STORAGE", "s3://nobody-made-this/some/prefix")
    (said,) = said_by_every_call(tmp_path, UserError)
    assert said.startswith(f"s3://nobody-made-this/some/prefix: no bucket nobody-made-this at {server.endpoint}; make it, or mend")


def test_a_server_that_is_away_is_told_by_every_call(rclone: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rclone.kill()
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    (said,) = said_by_every_call(tmp_path, RunError)
    assert said == (
        f"s3://stprivacy-test/some/prefix: nothing answers at {rclone.endpoint}; start the server, or mend AWS_ENDPOINT_URL, and run again"
    )


def test_a_server_that_stays_away_in_mid_transfer_is_told_and_leaves_only_what_can_be_gone_on_with(
    slow: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = random_file(slow.folder / slow.bucket / "some" / "prefix" / "big", 10_000_000)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    storage, part = open_storage(), tmp_path / "out" / ".big.part"
    fault = threading.Thread(target=lambda: (_until(lambda: part.exists() and part.stat().st_size > 1_000_000), slow.kill()), daemon=True)
    fault.start()
    with pytest.raises(RunError, match="nothing answers at"):
        storage.get("big", tmp_path / "out" / "big", sha256(source))
    fault.join()
    assert left_in(tmp_path / "out") == [".big.part"]
    slow.start()
    storage.get("big", tmp_path / "out" / "big", sha256(source))
    assert left_in(tmp_path / "out") == ["big"]
    assert sha256(tmp_path / "out" / "big") == sha256(source)


def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("damage", "found"), [("truncated", "(ends at 3000 of its 5000|has other) bytes"), ("corrupted", "has other bytes")]
)
def test_a_damaged_object_is_told_and_never_takes_the_place_of_a_file(rclone: S3Server, tmp_path: Path, damage: str, found: str) -> None:
    storage, source = open_storage(), random_file(tmp_path / "in" / "a", 5000)
    put_folder(storage, source.parent, "models/one")
    get_folder(storage, "models/one", tmp_path / "out")
    kept = (tmp_path / "out" / "a").read_bytes()
    random_file(source, 5000)
    put_folder(storage, source.parent, "models/one")
    stored = rclone.folder / rclone.bucket / "some" / "prefix" / "objects" / sha256(source)
    content = stored.read_bytes()
    stored.write_bytes(content[:3000] if damage == "truncated" else content[:3000] + bytes([content[3000] ^ 1]) + content[3001:])
    cache = NodeCache(tmp_path / "cache", 10**9)
    line = rf"^s3://stprivacy-test/some/prefix/objects/{stored.name}: {found}"
    for call in (
        lambda: get_folder(storage, "models/one", tmp_path / "out"),
        lambda: cache.fetch(storage, stored.name),
        lambda: storage.get(f"objects/{stored.name}", tmp_path / "single"),
    ):
        with pytest.raises(RunError, match=line):
            call()
    assert (tmp_path / "out" / "a").read_bytes() == kept
    assert left_in(tmp_path / "cache") == []
    assert not (tmp_path / "single").exists()


def test_a_disk_that_is_full_in_mid_download_is_told_and_the_download_goes_on_when_there_is_room(
    rclone: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, source = open_storage(), random_file(tmp_path / "in", 5000)
    digest = storage.put(source, "a")
    with monkeypatch.context() as patch:

        def full(answer: dict, part: Path) -> None:
            part.write_bytes(answer["Body"].read(2000))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(part))

        patch.setattr(storage_s3, "_write", full)
        with pytest.raises(RunError, match=r"\.out\.part: No space left on device; free some space, then run again"):
            storage.get("a", tmp_path / "new" / "out", digest)
    assert left_in(tmp_path / "new") == [".out.part"]
    storage.get("a", tmp_path / "new" / "out", digest)
    assert left_in(tmp_path / "new") == ["out"]


def test_an_object_that_an_upload_left_truncated_is_sent_again(rclone: S3Server, tmp_path: Path) -> None:
    storage, source = open_storage(), random_file(tmp_path / "in" / "a", 5000)
    put_folder(storage, source.parent, "models/one")
    os.truncate(rclone.folder / rclone.bucket / "some" / "prefix" / "objects" / sha256(source), 3000)
    assert put_folder(storage, source.parent, "models/one") == 1
    get_folder(storage, "models/one", tmp_path / "out")


def test_an_endpoint_that_is_no_address_is_told(rclone: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost")
    with pytest.raises(UserError, match=r"^AWS_\*: Invalid endpoint: localhost; mend"):
        open_storage()


def test_the_newest_object_is_taken_when_it_is_replaced_in_mid_transfer(server: S3Server, tmp_path: Path) -> None:
    storage, new = open_storage(), random_file(tmp_path / "new", 3_000_000)
    storage.put(random_file(tmp_path / "old", 4_000_000), "a")
    replaced: list[bool] = []

    def replace(**_: object) -> None:
        if not replaced:
            replaced.append(True)
            open_storage().put(new, "a")

    storage.client.meta.events.register("before-call.s3.GetObject", replace)  # type: ignore[attr-defined]
    storage.get("a", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == new.read_bytes()
