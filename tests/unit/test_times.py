"""Where the time went: the latest finished run of each stage counts."""

import json

import pytest

from stprivacy.times import latest, timed


def test_a_stage_leaves_its_seconds_even_when_it_fails(tmp_path):
    path = tmp_path / "new" / "times.jsonl"
    with timed("shard", path):
        pass
    with pytest.raises(ZeroDivisionError), timed("train", path):
        raise ZeroDivisionError
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["stage"], row["finished"]) for row in rows] == [("shard", True), ("train", False)]
    assert all(0 <= row["seconds"] < 60 for row in rows)


def test_the_latest_finished_run_of_each_stage_counts_in_the_order_of_running(tmp_path):
    path = tmp_path / "times.jsonl"
    runs = [("shard", 9.0, True), ("train", 50.0, True), ("shard", 2.0, True), ("train", 7.0, False), ("evaluate@blur", 3.0, True)]
    rows = [{"stage": stage, "started": 0.0, "seconds": seconds, "finished": finished} for stage, seconds, finished in runs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(latest(path).items()) == [("train", 50.0), ("shard", 2.0), ("evaluate@blur", 3.0)]


def test_before_the_first_stage_there_is_nothing(tmp_path):
    assert latest(tmp_path / "times.jsonl") == {}
