"""What a painter is to paint: what moves, or the neutral figure of the very video."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stprivacy.config import load_params
from stprivacy.data.synthetic import neutral_video_of, plan
from stprivacy.models.canonical import canonical_motion
from stprivacy.training.targets import build_target
from stprivacy.training.task import Batch


@pytest.fixture
def params(project_root):
    return load_params(project_root / "params/vp-synth-bounded.yaml")


@pytest.fixture
def reader(params):
    rows = plan(params.dataset)[:4]
    names = [name for name in rows[0] if name not in ("file", "action", "split")]
    return SimpleNamespace(rows=[{"file": row["file"], "attributes": [float(row[name]) for name in names]} for row in rows])


def batch(samples: tuple[int, ...]) -> Batch:
    clips = torch.rand(len(samples), 3, 8, 48, 48, generator=torch.Generator().manual_seed(0))
    return Batch(clips, torch.zeros(len(samples), dtype=torch.long), torch.zeros(len(samples), 5), samples, step=0)


def test_the_neutral_figure_is_that_of_the_clip_s_own_video_at_the_clip_s_frames(params, reader):
    target = build_target(params, reader)
    drawn = target(batch((2, 0)))
    assert drawn.shape == (2, 1, 8, 48, 48)
    row = reader.rows[2]
    action, attributes = row["file"].split("/")[0], tuple(int(value) for value in row["attributes"])
    expected = neutral_video_of(row["file"], action, attributes, params.dataset, range(0, 16, 2), 48)
    assert np.array_equal((drawn[0, 0] * 255).round().numpy(), expected)
    assert torch.equal(drawn, target(batch((2, 0))))  # found drawn


def test_motion_is_the_target_where_nobody_can_render(params, reader):
    code = params.train.code.model_copy(update={"target": "motion"})
    params = params.model_copy(update={"train": params.train.model_copy(update={"code": code})})
    some = batch((0, 1))
    assert torch.equal(build_target(params, reader)(some), canonical_motion(some.clips).picture)
