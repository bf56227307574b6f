"""What a GPU can do differently from the CPUs that all other tests run on: tensors of two devices in one place, other rounding, NCCL."""

import copy
import dataclasses

import pytest
import torch

from stprivacy.config import Clip, Model
from stprivacy.models.anonymizer import Anonymizer
from stprivacy.models.checkpoints import load_anonymizer
from tests.unit.test_training_worker import Killed, history_of, job, play, progress_of, training_params

__all__ = ["job"]  # a fixture

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA GPU is missing (torch.cuda.is_available())"),
]


@pytest.mark.parametrize("keep_ratio", [0.4, 0.8])
def test_gpu_and_cpu_keep_the_same_tubelets_and_paint_them_alike(keep_ratio):
    torch.manual_seed(0)
    clip = Clip(num_frames=8, size=48)
    here = Anonymizer(Model(identity_start=False), clip).eval()
    there = copy.deepcopy(here).cuda()
    clips = torch.rand(4, 3, clip.num_frames, clip.size, clip.size)
    with torch.no_grad():
        ours, theirs = here(clips, keep_ratio), there(clips.cuda(), keep_ratio)
    same = ours.keep == theirs.keep.cpu()
    assert same.float().mean() > 0.99  # two scores may be as close as rounding
    whole = same.flatten(1).all(1)
    assert whole.any()
    torch.testing.assert_close(theirs.pixels.cpu()[whole], ours.pixels[whole], atol=5e-3, rtol=0)


@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_a_game_that_was_killed_goes_on_and_its_anonymizer_loads(engine, job, tmp_path, monkeypatch):
    """Epochs of three steps are shorter than the adversaries' memory, so a restored memory takes further steps."""
    monkeypatch.setenv("LOCAL_RANK", "0")  # as Ray Train sets it, for DeepSpeed
    trained = dataclasses.replace(job, params=training_params(engine=engine))
    with pytest.raises(Killed):
        play(trained, tmp_path / "killed", kill_after=3)
    *_, last = play(trained, tmp_path / "resumed", checkpoint=tmp_path / "killed/2")
    assert progress_of(last) == ("game", 3)
    assert len(history_of(last)) == 5 * 3
    weights = load_anonymizer(last / "model")[0].state_dict().values()
    assert all(torch.isfinite(values).all() for values in weights)
