"""`stprivacy videos`: raw videos are kept in the storage and come back as they were; nobody's folder is written over."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stprivacy import cli
from stprivacy.data.storage import FolderStorage, read_tree

SOURCE = Path("data/raw/weizmann")
VIDEOS = {"daria_run.avi": "a run", "sub/daria_walk.avi": "a walk", "labels.csv": "file,action"}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd) -> Run:
    """run("put") → (exit code, what it printed, what it complained of)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["stprivacy", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err.rpartition("\r")[2]

    return run


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project_root: Path) -> Callable[[str], None]:
    """machine("b") goes to another machine's project: same params.yaml, same storage."""
    monkeypatch.setenv("STPRIVACY_STORAGE", str(tmp_path / "store"))
    monkeypatch.setenv("STPRIVACY_NODE_CACHE", str(tmp_path / "cache"))

    def machine(name: str) -> None:
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / name)
        shutil.copy(project_root / "params" / "weizmann.yaml", "params.yaml")

    machine("a")
    write(SOURCE, VIDEOS)
    return machine


def write(folder: Path, contents: dict[str, str]) -> None:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def files(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_another_machine_gets_the_folder_as_it_is(machine, run: Run) -> None:
    code, out, _ = run("videos", "put")
    assert (code, out.endswith("; 3 of them were new there\n")) == (0, True)
    machine("b")
    assert run("videos", "get")[0] == 0
    assert files(SOURCE) == VIDEOS
    assert [path.name for path in SOURCE.parent.iterdir()] == ["weizmann"]
    assert "here, 0 files fetched" in run("videos", "get")[1]


def test_only_what_is_new_travels_in_either_direction(machine, run: Run) -> None:
    machine("b")
    write(SOURCE, VIDEOS)
    machine("a")
    write(SOURCE, {"eli_run.avi": "another run"})
    run("videos", "put")
    assert run("videos", "put")[1].endswith("; 0 of them were new there\n")
    machine("b")
    assert "here, 1 files fetched" in run("videos", "get")[1]
    assert files(SOURCE) == VIDEOS | {"eli_run.avi": "another run"}


def test_a_link_to_another_disk_stays_a_link(machine, run: Run, tmp_path: Path) -> None:
    run("videos", "put")
    machine("b")
    SOURCE.parent.mkdir(parents=True)
    SOURCE.symlink_to(tmp_path / "disk" / "weizmann")
    assert run("videos", "get")[0] == 0
    assert SOURCE.is_symlink()
    assert files(tmp_path / "disk" / "weizmann") == VIDEOS


@pytest.mark.parametrize("odd", ["changed", "more", "link", "file"])
def test_a_folder_with_other_content_is_left_alone(machine, run: Run, odd: str) -> None:
    run("videos", "put")
    machine("b")
    if odd == "file":
        write(Path(), {str(SOURCE): "a file"})
    else:
        write(SOURCE, VIDEOS | {"changed": {"labels.csv": "mine,here!!"}, "more": {"mine.avi": "mine"}, "link": {}}[odd])
    if odd == "link":
        (SOURCE / "later.avi").symlink_to("not-mounted")
    else:
        (SOURCE.parent / "beside").mkdir()
    before = files(Path()), sorted(SOURCE.rglob("*"))
    code, _, err = run("videos", "get")
    assert (code, err.count("\n")) == (2, 1)
    assert "dataset.source = data/raw/weizmann: " in err
    assert (files(Path()), sorted(SOURCE.rglob("*"))) == before


def test_the_folder_appears_when_it_is_whole(machine, run: Run, tmp_path: Path) -> None:
    run("videos", "put")
    store = FolderStorage(tmp_path / "store")
    lost = tmp_path / "store" / "objects" / read_tree(store, "raw/weizmann")["sub/daria_walk.avi"].sha256
    lost.rename(tmp_path / "aside")
    machine("b")
    assert run("videos", "get")[0] == 2
    assert not SOURCE.exists()
    (tmp_path / "aside").rename(lost)
    assert run("videos", "get")[0] == 0
    assert files(SOURCE) == VIDEOS


def test_who_has_a_part_of_the_videos_takes_none_from_the_others_unasked(machine, run: Run, tmp_path: Path) -> None:
    run("videos", "put")
    machine("b")
    write(SOURCE, {"daria_run.avi": "a run", "eli_run.avi": "another run"})
    code, _, err = run("videos", "put")
    assert code == 2
    assert "data/raw/weizmann: lacks 2 files of raw/weizmann" in err
    store = FolderStorage(tmp_path / "store")
    assert read_tree(store, "raw/weizmann").keys() == VIDEOS.keys()
    assert run("videos", "put", "--replace")[0] == 0
    assert read_tree(store, "raw/weizmann").keys() == {"daria_run.avi", "eli_run.avi"}


def test_what_would_not_arrive_is_said_before_anything_is_sent(machine, run: Run, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (SOURCE / "linked").symlink_to(tmp_path / "elsewhere")
    code, _, err = run("videos", "put")
    assert (code, err.count("\n")) == (2, 1)
    assert "weizmann/linked: leads to a folder" in err
    (SOURCE / "linked").unlink()
    (SOURCE / "a\\b.avi").touch()
    assert run("videos", "put")[0] == 2  # a tree that nobody could read would stop every purge
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("command", ["put", "get"])
def test_what_is_missing_is_one_line_with_its_mend(
    machine, run: Run, monkeypatch: pytest.MonkeyPatch, project_root: Path, command: str
) -> None:
    machine("b")
    wanted = {"put": "no videos there; put or link them there", "get": "has no raw videos of weizmann; `stprivacy videos put`"}
    code, _, err = run("videos", command)
    assert (code, err.count("\n")) == (2, 1)
    assert wanted[command] in err
    shutil.copy(project_root / "params" / "vp-synth-tiny.yaml", "params.yaml")
    code, _, err = run("videos", command)
    assert (code, err.count("\n")) == (2, 1)
    assert "vp-synth-tiny: `dvc repro` renders its videos" in err
    monkeypatch.delenv("STPRIVACY_STORAGE")
    code, _, err = run("videos", command)
    assert (code, err.count("\n")) == (2, 1)
    assert "STPRIVACY_STORAGE: not set; give a folder or s3://bucket/prefix" in err


def test_a_folder_that_holds_more_than_videos_is_not_sent(machine, run: Run, tmp_path: Path) -> None:
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace(f"source: {SOURCE}", "source: ."))
    code, _, err = run("videos", "put")
    assert code == 2
    assert "which holds more than videos" in err
    assert not (tmp_path / "store").exists()


# ------------------------------------------------------------------------------------------------ purge


def test_purge_takes_raw_videos_from_here_and_from_the_storage_only_when_told(machine, run: Run, tmp_path: Path) -> None:
    write(SOURCE, {"dataset.json": '{"name": "weizmann"}', "manifest.jsonl": ""})  # as a folder of clips has them
    run("videos", "put")
    assert run("purge", "--yes")[0] == 0
    assert len(files(SOURCE)) == 5
    machine("b")
    assert run("videos", "get")[0] == 0
    broken = SOURCE.parent / ".weizmann.part"  # of a fetch that was killed
    write(broken, {"daria_run.avi": "a run"})
    code, out, _ = run("purge", "--raw", "--yes")
    assert code == 0
    assert f"removes {SOURCE}: 5 files" in out
    assert f"removes {tmp_path / 'store'} (raw videos): 6 files" in out  # the tree is one
    assert not SOURCE.exists()
    assert not broken.exists()
    assert FolderStorage(tmp_path / "store").list("") == {}


def test_purge_takes_them_from_the_storage_where_no_folder_is(machine, run: Run, tmp_path: Path) -> None:
    run("videos", "put")
    machine("b")
    assert run("purge", "--raw", "--yes")[0] == 0
    assert FolderStorage(tmp_path / "store").list("") == {}
    assert "no folder of videos, and none in the storage" in run("purge", "--raw", "--yes")[2]


def test_videos_of_another_data_set_stay_and_purge_says_so(machine, run: Run, tmp_path: Path) -> None:
    run("videos", "put")
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("name: weizmann", "name: my-weizmann", 1))
    write(SOURCE, {"mine.avi": "mine"})
    assert run("videos", "put")[1].endswith("; 1 of them were new there\n")
    code, out, _ = run("purge", "--raw", "--yes")
    assert code == 0
    assert f"{tmp_path / 'store'} (raw videos; 3 of them stay for raw/weizmann): 2 files" in out
    machine("b")
    assert run("videos", "get")[0] == 0
    assert files(SOURCE) == VIDEOS
