"""The preprocess stage as a whole, on small folders: manifest, report, failure budget, what a second run repeats."""

import json
from pathlib import Path

import numpy as np
import pytest

from stprivacy.config import Clip, FolderDataset, Preprocess
from stprivacy.data.preprocess import preprocess
from stprivacy.data.shards import write_shards
from stprivacy.errors import UserError
from tests.unit.data_files import grey_video

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def dataset(tmp_path: Path) -> FolderDataset:
    """Eight videos of two actions in four groups, two of them test; one label has no file and one file no label."""
    lines = ["file,action,split,group,hat", "gone.mp4,run,train,g9,0"]
    for index in range(8):
        grey_video(tmp_path / "videos" / f"v{index}.mp4")
        lines.append(f"v{index}.mp4,{'run' if index % 2 else 'walk'},{'test' if index > 5 else 'train'},g{index // 2},{index % 2}")
    grey_video(tmp_path / "videos" / "extra.mp4")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return FolderDataset(name="mine", kind="folder", source=str(tmp_path / "videos"), labels=str(tmp_path / "labels.csv"), val_share=0.3)


def run(dataset: FolderDataset, tmp_path: Path, failure_budget: float = 0.0) -> dict[str, int]:
    settings = Preprocess(short_side=32, num_processes=2, failure_budget=failure_budget)
    return preprocess(dataset, Clip(), settings, tmp_path / "clips", tmp_path / "cache")


def manifest(tmp_path: Path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "clips" / "manifest.jsonl").read_text().splitlines()]


def test_a_row_a_video_with_its_frames_beside_it_and_what_does_not_match_in_the_report(
    dataset: FolderDataset, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    counts = run(dataset, tmp_path)
    rows = manifest(tmp_path)
    assert counts == {"videos/train": 4, "videos/val": 2, "videos/test": 2, "videos/quarantined": 0, "actions": 2, "attributes": 1}
    assert [row["file"] for row in rows] == [f"v{index}.mp4" for index in range(8)]
    for row in rows:
        frames = np.load(tmp_path / "clips" / "clips" / f"{row['key']}.npy")
        assert frames.shape == (row["num_frames"], row["height"], row["width"], 3) == (6, 32, 64, 3)
        assert (row["action"], row["attributes"]) == ((0, [1.0]) if int(row["key"][1]) % 2 else (1, [0.0]))
    assert json.loads((tmp_path / "clips" / "dataset.json").read_text()) == {
        "name": "mine", "actions": ["run", "walk"], "attributes": ["hat"], "num_videos": {"train": 4, "val": 2, "test": 2},
    }  # fmt: skip
    report = json.loads((tmp_path / "clips" / "report.json").read_text())
    assert report["findings"] == {
        "labels without a file": {"count": 1, "names": ["gone.mp4"]},
        "files without a label": {"count": 1, "names": ["extra.mp4"]},
    }
    assert "note: 1 labels without a file: gone.mp4" in capsys.readouterr().out


def test_a_broken_video_within_the_budget_is_left_out_and_named(dataset: FolderDataset, tmp_path: Path) -> None:
    broken = Path(dataset.source) / "v4.mp4"
    broken.write_text("no video")
    assert run(dataset, tmp_path, failure_budget=0.2)["videos/quarantined"] == 1
    assert "v4" not in {row["key"] for row in manifest(tmp_path)}
    line = json.loads((tmp_path / "clips" / "quarantine.jsonl").read_text())
    assert (line["key"], line["file"]) == ("v4", str(broken)) and line["reason"].startswith("not decodable")
    grey_video(broken)
    assert run(dataset, tmp_path)["videos/quarantined"] == 0


def test_more_broken_videos_than_the_budget_stop_the_stage_with_the_file(dataset: FolderDataset, tmp_path: Path) -> None:
    (Path(dataset.source) / "v0.mp4").write_text("no video")
    with pytest.raises(UserError, match=r"1 of the first 1 videos cannot be decoded \(last .*v0\.mp4: not decodable.*allows 0 of 8"):
        run(dataset, tmp_path)
    assert "v0.mp4" in (tmp_path / "clips" / "quarantine.jsonl").read_text()


def test_a_split_without_any_video_left_stops_the_stage(dataset: FolderDataset, tmp_path: Path) -> None:
    for index in (6, 7):
        (Path(dataset.source) / f"v{index}.mp4").write_text("no video")
    with pytest.raises(UserError, match="no test video could be decoded"):
        run(dataset, tmp_path, failure_budget=1.0)


def test_a_second_run_gives_the_same_files_and_the_same_shards_wherever_the_videos_lie(dataset: FolderDataset, tmp_path: Path) -> None:
    contents = []
    for place in ("videos", "moved"):
        source = tmp_path / place
        (tmp_path / "videos").rename(source)
        run(dataset.model_copy(update={"source": str(source)}), tmp_path)
        write_shards(tmp_path / "clips", tmp_path / "shards", 1)
        source.rename(tmp_path / "videos")
        contents.append({path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()})
    assert contents[0] == contents[1]


def test_another_share_for_val_decodes_nothing_again(dataset: FolderDataset, tmp_path: Path) -> None:
    run(dataset, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}
    run(dataset.model_copy(update={"val_share": 0.6}), tmp_path)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")} == before and len(before) == 8
    assert sum(row["split"] == "val" for row in manifest(tmp_path)) == 4
