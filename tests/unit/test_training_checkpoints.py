"""Checkpoints in a storage: which one is taken up when files are damaged or missing, or the storage is away."""

import pytest

from stprivacy.data.storage import FolderStorage
from stprivacy.errors import RunError
from stprivacy.training import checkpoints as module
from stprivacy.training.checkpoints import Checkpoints, GivenUp, checkpoint_name


def alone(mine):
    """One worker's exchange."""
    return [mine]


@pytest.fixture
def run(tmp_path):
    return Checkpoints(str(tmp_path / "storage"), "run", patience_s=0)


@pytest.fixture
def put(run, tmp_path):
    """put(name, num_workers): the workers' files and seals of a checkpoint."""

    def put(name, num_workers=2, workers=None):
        for worker in range(num_workers) if workers is None else workers:
            folder = tmp_path / "written" / name / str(worker)
            (folder / "model").mkdir(parents=True, exist_ok=True)
            (folder / "model" / f"part-{worker}").write_bytes(name.encode() * 100)
            run.put(name, folder, worker, num_workers)

    return put


def stored(run, tmp_path, name, file):
    return tmp_path / "storage" / "run" / name / file


def taken_up(run, tmp_path):
    """Name of what is taken up, and what was said."""
    said = []
    found = run.take_up(tmp_path / "here", alone, said.append)
    return found.name if found else None, said


def test_the_furthest_is_taken_and_whole(run, put, tmp_path):
    for name in ("init-0009", "init-0010", "game-0001", "game-0009", "game-0010"):
        put(name)
    assert run.names() == ["game-0010", "game-0009", "game-0001", "init-0010", "init-0009"]
    assert taken_up(run, tmp_path) == ("game-0010", [])
    for worker in (0, 1):
        assert (tmp_path / "here" / "game-0010" / "model" / f"part-{worker}").read_bytes() == b"game-0010" * 100


def test_a_run_that_has_not_begun_takes_up_nothing(run, tmp_path):
    assert taken_up(run, tmp_path) == (None, [])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (flip, "model/part-1 has other bytes than were written"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "model/part-1 has 899 bytes of 900"),
        (lambda path: path.unlink(), "model/part-1 has 0 bytes of 900"),
        (lambda path: path.parents[1].joinpath("seal-1.json").write_text("{"), "seal-1.json is not readable"),
    ],
    ids=["a flipped bit", "truncated", "gone", "no seal any more"],
)
def test_of_a_damaged_one_the_log_tells_and_the_one_before_is_taken(run, put, tmp_path, damage, said):
    put("game-0001")
    put("game-0002")
    damage(stored(run, tmp_path, "game-0002", "model/part-1"))
    assert taken_up(run, tmp_path) == ("game-0001", [f"checkpoint game-0002 is damaged: {said}; taking the one before"])


def test_one_that_a_worker_did_not_finish_is_nothing(run, put, tmp_path):
    put("game-0001")
    put("game-0002", workers=[0])
    assert taken_up(run, tmp_path) == ("game-0001", [])


def test_files_of_an_earlier_attempt_with_more_workers_do_not_finish_it(run, put, tmp_path):
    put("game-0001")
    put("game-0002", num_workers=3, workers=[1, 2])
    put("game-0002", num_workers=2, workers=[0])
    assert taken_up(run, tmp_path) == ("game-0001", [])
    put("game-0002", num_workers=2, workers=[1])
    assert taken_up(run, tmp_path) == ("game-0002", [])


def test_where_every_one_is_damaged_nothing_is_overwritten_in_silence(run, put, tmp_path):
    put("game-0001")
    flip(stored(run, tmp_path, "game-0001", "model/part-0"))
    with pytest.raises(GivenUp, match=r"game-0001 is damaged.* no whole one before it; remove .*storage/run to start the run again"):
        taken_up(run, tmp_path)


def test_two_are_kept(run, put):
    for epoch in range(1, 5):
        put(checkpoint_name("game", epoch))
        run.tidy(checkpoint_name("game", epoch))
        assert run.names() == [checkpoint_name("game", number) for number in range(epoch, max(0, epoch - 2), -1)]


@pytest.fixture
def flaky(monkeypatch):
    """flaky(n): the storage fails n times, then answers; gives the list of its failures."""

    def flaky(count):
        failures = []

        class Flaky(FolderStorage):
            def list(self, prefix):
                if len(failures) < count:
                    failures.append(prefix)
                    raise RunError("nothing answers at http://127.0.0.1:1")
                return super().list(prefix)

        monkeypatch.setattr(module, "open_storage", lambda url: Flaky(module.Path(url)))
        return failures

    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    return flaky


def test_a_storage_that_comes_back_is_waited_for(put, tmp_path, flaky, capsys):
    put("game-0001")
    failures = flaky(5)
    patient = Checkpoints(str(tmp_path / "storage"), "run", patience_s=60)
    assert taken_up(patient, tmp_path) == ("game-0001", [])
    assert len(failures) == 5
    assert capsys.readouterr().out.count("is away, trying for 60 s: nothing answers at") == 1


def test_one_that_stays_away_ends_the_run_for_all_workers_with_what_is_kept(put, tmp_path, flaky):
    put("game-0001")
    flaky(10**9)
    hasty = Checkpoints(str(tmp_path / "storage"), "run", patience_s=0)
    with pytest.raises(GivenUp, match=r"nothing answers at .* finished epochs are kept in .*storage/run: start the same command again"):
        taken_up(hasty, tmp_path)


def test_what_fails_for_one_worker_is_given_up_by_all(run):
    with pytest.raises(GivenUp, match="disk full"):
        run.together(lambda: "fine", lambda mine: [mine, (None, "disk full")])
