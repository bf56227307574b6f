"""The `stprivacy` command, as its console script runs it."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stprivacy import cli
from stprivacy.config import load_params
from stprivacy.data.annotations_vp import read_digits
from stprivacy.evaluation.pictures import write_pictures
from stprivacy.evaluation.results import write_results
from tests.unit.evaluation_files import SHARE, made_judgement, tiny_model, tiny_params

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """command(*arguments) → (exit code, what it printed, what it complained of), run in a project's folder."""
    (tmp_path / "params").symlink_to(ROOT / "params")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["stprivacy", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A folder `results` in which raw video, blur and a learned method at two kept shares were judged."""
    folder, params = tmp_path_factory.mktemp("judged"), tiny_params()
    raw, model = None, tiny_model(folder / "model")
    for method, shares, skill in (("raw", (None,), 0.95), ("blur", (None,), 0.7), ("stprivacy", (SHARE, 0.25), 0.1)):
        judgement = made_judgement(folder / method, method, shares, skill=skill)
        target = folder / "results" / "evaluate" / method
        metrics = write_results(judgement, params, target, raw)
        write_pictures(judgement, metrics, params, model, target)
        raw = raw or target / "metrics.json"
    return folder / "results"


@pytest.fixture
def results(command, judged, tmp_path):
    (tmp_path / "results").symlink_to(judged)
    return judged


# ---------------------------------------------------------------------------------------------------- starting


@pytest.mark.parametrize(
    "program", ["import stprivacy", "import sys; sys.argv = ['stprivacy', '--help']; from stprivacy.cli import main; main()"]
)
def test_starting_loads_nothing_heavy(program):
    """Each of these costs between a half and several seconds."""
    heavy = ["torch", "ray", "mlflow", "deepspeed", "cv2", "decord", "pandas", "sklearn", "matplotlib", "pydantic", "dvc"]
    ask = f"import atexit, sys; atexit.register(lambda: print('loaded:', [name for name in {heavy} if name in sys.modules]))"
    ended = subprocess.run([sys.executable, "-c", f"{ask}\n{program}"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.splitlines()[-1] == "loaded: []"


def test_help_names_every_command_and_shows_examples(command):
    code, out, _ = command("--help")
    assert code == 0
    assert {line.split()[0] for line in out.partition("Commands:")[2].splitlines() if line.strip()} >= {"labels", "params", "show", "times"}
    for example in ("stprivacy params use", "make repro", "stprivacy show"):
        assert example in out


def test_the_module_is_the_command():
    ended = subprocess.run([sys.executable, "-m", "stprivacy", "--version"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.startswith("stprivacy, version ")


# ---------------------------------------------------------------------------------------------------- params


def test_params_list_names_every_ready_made_file_and_says_what_it_is(command):
    _, out, _ = command("params", "list")
    listed = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert listed.keys() == {path.stem for path in (ROOT / "params").glob("*.yaml")}
    assert listed["vp-synth-tiny"].startswith("VP-Synth, tiny: ")


def test_params_use_puts_a_file_in_place_byte_for_byte(command, tmp_path):
    for name in ("vp-synth-tiny", "vp-synth"):
        code, out, _ = command("params", "use", name)
        assert (code, out) == (0, f"params.yaml is now params/{name}.yaml; next: dvc repro\n")
        assert (tmp_path / "params.yaml").read_bytes() == (ROOT / "params" / f"{name}.yaml").read_bytes()


def test_params_use_keeps_a_file_that_somebody_has_changed(command, tmp_path):
    mine = (ROOT / "params.yaml").read_text().replace("seed: 0", "seed: 7")
    (tmp_path / "params.yaml").write_text(mine)
    code, _, err = command("params", "use", "vp-synth-tiny")
    assert code == 2
    assert "has changes of its own" in err
    assert (tmp_path / "params.yaml").read_text() == mine
    assert command("params", "use", "vp-synth-tiny", "--force")[0] == 0
    assert load_params(tmp_path / "params.yaml").dataset.name == "vp-synth-tiny"


def test_params_use_suggests_the_name_that_was_meant(command, tmp_path):
    code, _, err = command("params", "use", "vp-synht")
    assert (code, err.count("\n")) == (2, 1)
    assert "did you mean vp-synth?" in err
    assert not (tmp_path / "params.yaml").exists()


def test_params_check_says_what_is_valid_and_stops_at_what_is_not(command, tmp_path):
    code, out, _ = command("params", "check", "params/vp-synth-tiny.yaml")
    assert (code, out.count("\n")) == (0, 1)
    assert re.match(r"params/vp-synth-tiny\.yaml: valid\. vp-synth-tiny: clips of 8 × 32 × 32, kept share 0\.\d\d, 1 \+ 2 epochs", out)
    text = (ROOT / "params" / "vp-synth.yaml").read_text()
    (tmp_path / "params.yaml").write_text(re.sub(r"keep_ratio: \S+", "keep_ratio: 1.5", text))
    code, out, err = command("params", "check")
    assert (code, out) == (2, "")
    assert err == "error: params.yaml: model.keep_ratio = 1.5: Input should be less than or equal to 1\n"


def test_outside_a_project_s_folder_params_says_where_to_go(command, tmp_path):
    (tmp_path / "params").unlink()
    assert command("params", "list") == (2, "", "error: params/: no ready-made files here; run stprivacy in the project's folder\n")


# ---------------------------------------------------------------------------------------------------- show


def test_show_prints_a_row_a_method_and_kept_share_then_the_floors(command, results):
    code, out, _ = command("show")
    assert code == 0
    assert [line.split("│")[1].strip() for line in out.splitlines() if "│" in line] == [
        "raw", "blur", "stprivacy", "stprivacy", "floor: chance", "floor: constant answer", "floor: action label alone",
    ]  # fmt: skip
    metrics = json.loads((results / "evaluate" / "stprivacy" / "metrics.json").read_text())
    row = next(line for line in out.splitlines() if "stprivacy" in line and f" {SHARE} " in line)
    for figure in (f"{metrics['action']['top1']:.3f}", f"{metrics['privacy']['cmap']:.3f}", f"{metrics['leak_removed']:.2f}"):
        assert figure in row


def test_show_before_anything_was_judged_says_what_to_run(command):
    code, out, err = command("show")
    assert (code, out) == (2, "")
    assert "nothing has been judged yet: run `make repro`" in err


def test_show_into_replaces_what_stands_between_the_markers_and_nothing_else(command, results, tmp_path):
    page = tmp_path / "PAGE.md"
    page.write_text(f"# Before\n\n{cli.TABLE_BEGIN}\nold\n{cli.TABLE_END}\n\nafter ±\n", encoding="utf-8")
    for _ in range(2):  # the second time it is there already
        assert command("show", "--into", "PAGE.md")[0] == 0
        before, _, rest = page.read_text(encoding="utf-8").partition(cli.TABLE_BEGIN)
        table, _, after = rest.partition(cli.TABLE_END)
        assert (before, after) == ("# Before\n\n", "\n\nafter ±\n")
        assert table.strip() == command("show", "--markdown")[1].strip()


@pytest.mark.parametrize(
    "text", ["no marker", f"{cli.TABLE_BEGIN} alone", f"{cli.TABLE_END}\n{cli.TABLE_BEGIN}"], ids=["none", "one", "the wrong way round"]
)
def test_show_into_a_file_without_markers_changes_nothing(command, results, tmp_path, text):
    (tmp_path / "PAGE.md").write_text(text)
    code, _, err = command("show", "--into", "PAGE.md")
    assert code == 2
    assert f"PAGE.md: needs the lines {cli.TABLE_BEGIN} and {cli.TABLE_END}" in err
    assert (tmp_path / "PAGE.md").read_text() == text


def test_show_into_a_file_that_is_not_there_is_refused(command, results):
    code, _, err = command("show", "--into", "none.md")
    assert code == 2
    assert "none.md: no such file" in err


def test_show_figure_draws_raw_and_released_clips(command, results, tmp_path):
    (tmp_path / "params.yaml").write_text((ROOT / "params" / "vp-synth-tiny.yaml").read_text())
    code, out, _ = command("show", "--figure", "new/released.png")
    assert (code, out) == (0, "new/released.png: drawn\n")
    with Image.open(tmp_path / "new" / "released.png") as picture:
        assert picture.width > 500


def of_real_people(tmp_path, log_raw_clips=False):
    text = (ROOT / "params" / "weizmann.yaml").read_text()
    text = text.replace("name: weizmann", "name: vp-synth-tiny", 1).replace("seeds: [0, 1, 2]", "seeds: [0]")  # as the judged one
    (tmp_path / "params.yaml").write_text(text.replace("log_raw_clips: false", f"log_raw_clips: {str(log_raw_clips).lower()}"))


def test_show_figure_draws_no_raw_frames_of_people_who_were_not_asked(command, results, tmp_path):
    of_real_people(tmp_path)
    page = tmp_path / "PAGE.md"
    page.write_text(f"{cli.TABLE_BEGIN}\n{cli.TABLE_END}\n")
    code, out, err = command("show", "--into", "PAGE.md", "--figure", "released.png")
    assert (code, out, err.count("\n")) == (2, "", 1)
    mend = "draw released frames alone with --no-raw, or set tracking.log_raw_clips: true in params.yaml"
    assert f"raw frames of vp-synth-tiny show real people; {mend}" in err
    assert not (tmp_path / "released.png").exists()
    assert page.read_text() == f"{cli.TABLE_BEGIN}\n{cli.TABLE_END}\n", "something was written before it was refused"
    assert command("show", "--figure", "released.png", "--no-raw")[0] == 0
    with Image.open(tmp_path / "released.png") as released:
        height = released.height
    of_real_people(tmp_path, log_raw_clips=True)
    assert command("show", "--figure", "asked.png")[0] == 0
    with Image.open(tmp_path / "asked.png") as asked:
        assert asked.height > height


def test_show_figure_of_another_data_set_than_params_speaks_of_is_refused(command, results, tmp_path):
    """Else a run on real people and then `params use vp-synth` would draw them."""
    (tmp_path / "params.yaml").write_text((ROOT / "params" / "vp-synth.yaml").read_text())
    code, _, err = command("show", "--figure", "released.png")
    assert code == 2
    assert "judged on vp-synth-tiny, params.yaml has vp-synth" in err


# ---------------------------------------------------------------------------------------------------- times and labels


def test_times_sums_up_where_the_time_went(command, tmp_path):
    assert command("times")[0] == 2
    path = tmp_path / ".cache" / "stprivacy" / "times.jsonl"
    path.parent.mkdir(parents=True)
    rows = [{"stage": stage, "started": 0, "seconds": seconds, "finished": True} for stage, seconds in (("train", 90.0), ("shard", 30.0))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, _ = command("times")
    assert code == 0
    assert [line.split() for line in out.splitlines()] == [
        ["train", "90.0", "s", "75%"], ["shard", "30.0", "s", "25%"], ["together", "120.0", "s,", "2.0", "minutes"],
    ]  # fmt: skip


def test_labels_import_writes_the_text_form_of_a_pickle(command, tmp_path):
    values = {f"wave/clip{index}.mp4": np.array([[index % 2, 1, 0, 1, 0]], dtype=np.int64) for index in range(4)}
    (tmp_path / "labels.pickle").write_bytes(pickle.dumps(values))
    assert command("labels", "import", "labels.pickle", "labels.txt") == (0, "labels.txt: 4 videos\n", "")
    assert read_digits(tmp_path / "labels.txt", 5)["wave/clip1"] == (1, 1, 0, 1, 0)


def test_labels_import_runs_nothing_that_is_in_a_pickle(command, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, ("it-ran",)

    (tmp_path / "labels.pickle").write_bytes(pickle.dumps({"wave/clip.mp4": Bomb()}))
    code, _, err = command("labels", "import", "labels.pickle", "labels.txt")
    assert (code, err.count("\n")) == (2, 1)
    assert not (tmp_path / "it-ran").exists()
    assert not (tmp_path / "labels.txt").exists()
