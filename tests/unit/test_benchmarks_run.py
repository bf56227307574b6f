"""benchmarks/run: what `make bench` makes of the seconds that were measured, with and without the authors' modules."""

import json

import pytest

from benchmarks import run as module
from benchmarks.run import BATCH, KEEP_RATIOS, TARGETS, ratios_of, run

TURNS = {
    "step_fp32/ours": 8.0, "step_fp32/reference": 20.0, "step_bf16/ours": 4.0, "step_bf16/reference": 12.0,
    "inference/keep_1": 3.0, "inference/keep_0.9": 2.5, "inference/keep_0.7": 2.0, "inference/keep_0.5": 1.5, "inference/keep_0.3": 1.0,
    "inference/reference": 7.0, "loader": 48.0, "trainer/init": 24.0, "trainer/game": 36.0,
}  # fmt: skip
"""Seconds a turn: of 4 clips, of the loader 480, of the trainer 24."""
RATIOS = {"step_fp32_vs_reference": 2.5, "step_bf16_vs_reference": 3.0, "inference_vs_reference": 3.5, "dense_over_keep_0.3": 3.0}
RATIOS |= {"loader_over_trainer": 10.0}  # 1 s a clip of init, 1.5 of the game, against 0.1


@pytest.fixture
def asked(monkeypatch):
    """No process is started: what would have been, by name, as its command line without `python -m`."""
    asked: dict[str, tuple[str, ...]] = {}

    def alternate(contestants, rounds):
        assert rounds > 0
        asked.update(contestants)
        return {name: TURNS[name] for name in contestants}

    monkeypatch.setattr(module, "Contestant", lambda *words: words)
    monkeypatch.setattr(module, "alternate", alternate)
    return asked


@pytest.fixture
def reference(tmp_path):
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "step_time.py").touch()
    return tmp_path / "reference"


def shown(printed):
    """Ratio → the line that shows it beside its target."""
    return {line.split()[0]: line for line in printed.split("target\n")[1].splitlines() if line.startswith("  ")}


def test_with_the_reference_all_five_ratios_are_written(asked, reference, tmp_path, capsys):
    written = run(reference, 1, "cpu", tmp_path / "results/bench.json")
    assert json.loads((tmp_path / "results/bench.json").read_text()) == written
    assert written["ratios"] == RATIOS
    assert written["targets"].keys() == RATIOS.keys()
    assert written["left_out"] == {}
    assert written["seconds_per_clip"].keys() == TURNS.keys() == asked.keys()
    assert written["seconds_per_clip"]["step_fp32/ours"] == 8.0 / BATCH
    lines = shown(capsys.readouterr().out)
    assert lines.keys() == RATIOS.keys()
    assert not [line for line in lines.values() if "missed" in line or "left out" in line]


def test_both_sides_are_asked_for_the_same_work(asked, reference, tmp_path):
    run(reference, 1, "cpu", tmp_path / "bench.json")
    for precision in ("fp32", "bf16"):
        ours, theirs = asked[f"step_{precision}/ours"], asked[f"step_{precision}/reference"]
        assert (ours[0], theirs[:2]) == ("ours", ("reference", str(reference)))
        assert ours[1:] == theirs[2:] == ("step", "--precision", precision, "--device", "cpu", "--batch", str(BATCH))
    for ratio in KEEP_RATIOS:
        assert asked[f"inference/keep_{ratio:g}"][1:4] == ("inference", "--keep-ratio", str(ratio))
    assert asked["inference/keep_0.7"][4:] == asked["inference/reference"][3:]


def test_without_the_reference_its_ratios_are_left_out_by_name(asked, tmp_path, capsys):
    written = run(None, 1, "cpu", tmp_path / "bench.json")
    missing = {name for name in RATIOS if name.endswith("_vs_reference")}
    assert written["ratios"] == {name: value for name, value in RATIOS.items() if name not in missing}
    assert written["left_out"] == dict.fromkeys(missing, "no reference")
    assert not [name for name in asked if "reference" in name]
    assert {name for name, line in shown(capsys.readouterr().out).items() if "left out: no reference" in line} == missing


def test_a_ratio_below_its_target_is_said_to_be_missed(capsys):
    seconds = dict.fromkeys(TURNS, 1.0)
    module.show(seconds, ratios_of(seconds))
    missed = {name for name, line in shown(capsys.readouterr().out).items() if line.endswith("missed")}
    assert missed == {name for name, target in TARGETS.items() if target > 1}


def test_a_folder_without_the_authors_modules_is_refused_before_anything_is_measured(asked, tmp_path):
    with pytest.raises(SystemExit, match=r"^error: .*: no step_time.py there; "):
        run(tmp_path, 1, "cpu", tmp_path / "bench.json")
    assert not asked
    assert not (tmp_path / "bench.json").exists()
