"""The adaptive budget's thresholds are found on training clips once the model is trained."""

import numpy as np
import pytest
import torch

from stprivacy.config import Channel
from stprivacy.models.anonymizer import Anonymizer
from stprivacy.models.checkpoints import load_anonymizer, save_model
from stprivacy.training import budget
from stprivacy.training.budget import calibrate_model
from tests.unit.evaluation_files import noise_clips, random_labels, tiny_params, write_dataset

SIZES = {"train": 24, "val": 2, "test": 8}


def trained(folder, budget: str):
    params = tiny_params()
    model = params.model.model_copy(update={"budget": budget, "identity_start": False})
    params = params.model_copy(update={"model": model})
    torch.manual_seed(0)
    config = {"model": model.model_dump(mode="json"), "channel": Channel().model_dump(), "clip": params.clip.model_dump()}
    save_model(folder, Anonymizer(model, params.clip), config)
    return params


def test_a_trained_model_is_given_thresholds_that_hold_on_new_clips(tmp_path):
    clips = noise_clips(SIZES)
    shards = write_dataset(tmp_path / "data", clips, *random_labels(SIZES))
    params = trained(tmp_path / "model", "adaptive")
    calibrate_model(tmp_path / "model", shards, params)
    anonymizer, _ = load_anonymizer(tmp_path / "model")
    test = torch.from_numpy(clips["test"]).permute(0, 4, 1, 2, 3).float() / 255
    assert anonymizer(test, 0.8).decisions[0].mean().item() == pytest.approx(0.8, abs=0.1)
    assert np.isfinite(anonymizer.thresholds.numpy()).all()


def test_clips_far_back_in_the_split_count_as_much_as_the_first(tmp_path, monkeypatch):
    """As where keys begin with the action: the later a clip stands, the brighter it is, and scores follow the brightness."""
    monkeypatch.setattr(budget, "NUM_CLIPS", 48)
    sizes = {"train": 192, "val": 2, "test": 2}
    clips = noise_clips(sizes)
    clips["train"] = (clips["train"] // 4 + np.arange(192)[:, None, None, None, None]).astype(np.uint8)
    shards = write_dataset(tmp_path / "data", clips, *random_labels(sizes))
    params = trained(tmp_path / "model", "adaptive")
    calibrate_model(tmp_path / "model", shards, params)
    anonymizer, _ = load_anonymizer(tmp_path / "model")
    everything = torch.from_numpy(clips["train"]).permute(0, 4, 1, 2, 3).float() / 255
    assert anonymizer(everything, 0.8).decisions[0].mean().item() == pytest.approx(0.8, abs=0.05)


def test_a_model_with_equal_slices_is_left_as_it_is(tmp_path):
    params = trained(tmp_path / "model", "per_slice")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    calibrate_model(tmp_path / "model", tmp_path / "no-shards", params)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
