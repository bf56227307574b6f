"""What the recorder of a run sends to the tracking server, in an undisturbed run and after a restart."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from stprivacy.config import load_params
from stprivacy.training.recorder import Progress, Recorder


class Server:
    """Stands for a `tracking.Run`: knows some steps already, keeps what is sent."""

    def __init__(self, known):
        self.known, self.sent = known, {}

    def steps(self, name):
        return self.known.get(name, set()) if self.known is not None else None

    def later(self, values, step):
        self.sent[step] = values

    def flush(self):
        pass


@pytest.fixture
def restored(project_root, tmp_path):
    """restored(server, phase, track_steps) → what a restart after that phase's second epoch sends, by step."""
    params = load_params(project_root / "params/vp-synth-tiny.yaml")
    rows = [{"phase": "init", "step": step, "loss/total": 9.0, "keep/share": 0.5} for step in range(2)]
    rows += [{"phase": "game", "step": step, "loss/total": float(step), "attack/a/bce": 0.6} for step in range(4)]

    def call(server, phase, track_steps=True):
        done = [row for row in rows if phase == "game" or row["phase"] == phase]
        pd.DataFrame(done).to_csv(tmp_path / "history.csv", index=False)
        (tmp_path / "progress.json").write_text(json.dumps(asdict(Progress(phase, 2, 1, {}))))
        recorder = Recorder(params, 0, 1, lambda write, metrics: None, None, track_steps)
        recorder.run = server
        player = SimpleNamespace(load=lambda folder: None)
        game = SimpleNamespace(load=lambda state: None, networks=SimpleNamespace(anonymizer=torch.nn.Linear(1, 1)))
        torch.save({}, tmp_path / "remembered.pt")
        assert recorder.restore(SimpleNamespace(name=phase, game=game, anonymizer=player, adversary=None), tmp_path) == 2
        return server.sent

    return call


def test_a_restart_sends_the_steps_that_the_server_missed_and_no_others(restored):
    sent = restored(Server({"loss/total": {0, 1}}), "game")
    assert sent == {2: {"loss/total": 2.0, "attack/a/bce": 0.6}, 3: {"loss/total": 3.0, "attack/a/bce": 0.6}}


def test_steps_of_init_are_sent_again_under_their_own_names(restored):
    assert restored(Server({"init/loss/total": {0}}), "init") == {1: {"init/loss/total": 9.0, "init/keep/share": 0.5}}


def test_nothing_is_sent_twice_to_a_server_that_cannot_say_what_it_has(restored):
    assert restored(Server(None), "game") == {}


def test_trials_send_the_means_of_epochs_that_the_server_missed_and_no_steps(restored):
    assert restored(Server({"loss/total": {1}}), "game", track_steps=False) == {2: {"loss/total": 2.5, "attack/a/bce": 0.6}}
    assert restored(Server({"loss/total": {1, 2}}), "game", track_steps=False) == {}
