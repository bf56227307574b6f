"""`stprivacy purge` removes what was made of one data set's videos, everywhere, and nothing that others need."""

import hashlib
import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from stprivacy import cli
from stprivacy.data.cache import NodeCache
from stprivacy.data.storage import FolderStorage, file_sha256, objects_of, put_folder, read_tree
from stprivacy.stages import folder_md5

GONE, KEPT = "vp-synth-tiny", "other"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project_root: Path) -> Path:
    """A project with two data sets, which share a file, in its folders, DVC's cache, the storage and this node's cache."""
    project = tmp_path / "project"
    (project / ".dvc").mkdir(parents=True)
    (project / ".dvc/config").write_text("[core]\n    analytics = false\n['remote \"far\"']\n    url = s3://far/away\n")
    monkeypatch.chdir(project)
    monkeypatch.setenv("STPRIVACY_STORAGE", str(tmp_path / "store"))
    monkeypatch.setenv("STPRIVACY_NODE_CACHE", str(tmp_path / "cache"))
    shutil.copy(project_root / "params" / "vp-synth-tiny.yaml", "params.yaml")
    for name in (GONE, KEPT):
        for kind, index in (("clips", "manifest.jsonl"), ("shards", "index.jsonl")):
            folder = write(
                Path("data") / kind / name, {index: f"{kind} of {name}", "same": "same", "dataset.json": json.dumps({"name": name})}
            )
            into_dvc(folder)
            put_folder(storage(tmp_path), folder, folder_md5(folder).removesuffix(".dir"))
    write(Path("models/anonymizer"), {"config.json": "{}"})
    into_dvc(Path("models/anonymizer"))
    put_folder(storage(tmp_path), Path("models/anonymizer"), "runs/train/one")
    for cached in ("clips-123", "vp-synth-123", "evaluate/released/1", "train/game-1"):
        put_folder(storage(tmp_path), write(Path(".cache/stprivacy") / cached, {"frames": cached}), f"runs/{cached}")
    storage(tmp_path).put(Path("models/anonymizer/config.json"), f"runs/trials/1.work/released/2/objects/{'0' * 64}")  # broken off
    storage(tmp_path).put_bytes("runs/train/game-1/game-0001/seal-0.json", b"{}")
    for key in storage(tmp_path).list("objects"):
        NodeCache(tmp_path / "cache", 10**9).fetch(storage(tmp_path), key)
    return project


def storage(tmp_path: Path) -> FolderStorage:
    return FolderStorage(tmp_path / "store")


def write(folder: Path, contents: dict[str, str]) -> Path:
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_text(content)
    return folder


def into_dvc(folder: Path) -> None:
    """As `dvc commit` keeps a folder."""
    rows = []
    for path in sorted(folder.iterdir()):
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        write_object(md5, path.read_bytes())
        rows.append({"md5": md5, "relpath": path.name})
    write_object(folder_md5(folder), json.dumps(rows).encode())


def write_object(md5: str, content: bytes) -> None:
    path = Path(".dvc/cache/files/md5") / md5[:2] / md5[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_bytes(content)
        path.chmod(0o444)


def everything(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def purge(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["stprivacy", "purge", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_nothing_of_the_data_set_is_left_and_everything_else_is(project: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    others = {
        name: content for name, content in everything(tmp_path).items() if content in ("same", f"clips of {KEPT}", f"shards of {KEPT}")
    }
    assert purge(monkeypatch, GONE, "--yes") == 0
    left = everything(tmp_path)
    assert not [name for name, content in left.items() if GONE in content and name != "project/params.yaml"]
    assert not list((project / "data").glob(f"*/{GONE}"))
    assert {name: left.get(name) for name in others if GONE not in name} == {
        name: content for name, content in others.items() if GONE not in name
    }
    assert left["project/models/anonymizer/config.json"] == "{}"
    assert [path.name for path in (project / ".cache/stprivacy").iterdir()] == ["train"]
    out = capsys.readouterr().out
    assert f"removes data/clips/{GONE}: 3 files, " in out
    assert f"{GONE}: removed " in out
    assert "dvc gc --workspace --cloud --remote far" in out
    # What the other data set and the models need can be fetched as before.
    for key in storage(tmp_path).list("trees"):
        tree = key.removeprefix("trees/").removesuffix(".json")
        for entry in read_tree(storage(tmp_path), tree).values():
            assert file_sha256(tmp_path / "store" / objects_of(tree) / entry.sha256) == entry.sha256
    assert "trees/runs/train/one.json" in storage(tmp_path).list("trees")
    assert "trees/runs/evaluate/released/1.json" not in storage(tmp_path).list("trees")
    assert {key.rpartition("/")[0] for key in storage(tmp_path).list("runs")} == {  # no release, nor what was broken off
        "runs/clips-123/objects", "runs/vp-synth-123/objects", "runs/train/one/objects", "runs/train/game-1/objects",
        "runs/train/game-1/game-0001",
    }  # fmt: skip
    for listing in (project / ".dvc/cache/files/md5").glob("??/*.dir"):
        for row in json.loads(listing.read_text()):
            assert (listing.parents[1] / row["md5"][:2] / row["md5"][2:]).exists()


def test_a_second_purge_finds_nothing(project: Path, monkeypatch, capsys) -> None:
    assert purge(monkeypatch, "--yes") == 0  # of params.yaml's data set
    capsys.readouterr()
    assert purge(monkeypatch, "--yes") == 0
    assert capsys.readouterr().out.startswith(f"{GONE}: nothing to remove\n")


def test_what_the_node_s_cache_drops_meanwhile_is_no_failure(project: Path, tmp_path: Path, monkeypatch) -> None:
    is_file = Path.is_file

    def raced(self: Path) -> bool:
        there = is_file(self)
        if there and self.parent == tmp_path / "cache":
            self.unlink()  # before its size is asked for
        return there

    monkeypatch.setattr(Path, "is_file", raced)
    assert purge(monkeypatch, GONE, "--yes") == 0


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_without_a_yes_nothing_is_removed(project: Path, tmp_path: Path, monkeypatch, capsys, answer: str) -> None:
    before = everything(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    assert purge(monkeypatch, GONE) == 1
    assert everything(tmp_path) == before
    assert f"would remove data/shards/{GONE}: 3 files" in capsys.readouterr().out


def test_the_person_s_own_videos_go_only_when_named_twice(project: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    videos = write(tmp_path / "videos", {"a.mp4": "video"})
    text = Path("params.yaml").read_text()
    source = next(line for line in text.splitlines() if line.strip().startswith("source:"))
    Path("params.yaml").write_text(text.replace(source, "  source: data/raw/mine"))
    Path("data/raw").mkdir()
    Path("data/raw/mine").symlink_to(videos)
    assert purge(monkeypatch, "--yes") == 0
    assert (videos / "a.mp4").exists()
    assert purge(monkeypatch, "--raw") == 2
    assert purge(monkeypatch, KEPT, "--raw", "--yes") == 2
    assert (videos / "a.mp4").exists()
    capsys.readouterr()
    assert purge(monkeypatch, "--raw", "--yes") == 0
    assert f"removes data/raw/mine → {videos}: 1 files" in capsys.readouterr().out
    assert not videos.exists()
    assert not Path("data/raw/mine").is_symlink()


@pytest.mark.parametrize("source", [".", "..", "/", "stprivacy/data/synthetic.py", "data/raw/none"])
def test_a_source_that_holds_more_than_videos_stays(project: Path, tmp_path: Path, monkeypatch, capsys, source: str) -> None:
    text = Path("params.yaml").read_text()
    line = next(line for line in text.splitlines() if line.strip().startswith("source:"))
    Path("params.yaml").write_text(text.replace(line, f"  source: {source}"))
    before = everything(tmp_path)
    assert purge(monkeypatch, "--raw", "--yes") == 2
    assert f"dataset.source = {source}: " in capsys.readouterr().err
    assert everything(tmp_path) == before


@pytest.mark.parametrize("name", ["..", "../../x", "/etc", "A", "*"])
def test_a_name_that_is_a_path_is_refused(project: Path, monkeypatch, capsys, name: str) -> None:
    assert purge(monkeypatch, "--yes", name) == 2
    assert "no name of a data set" in capsys.readouterr().err
