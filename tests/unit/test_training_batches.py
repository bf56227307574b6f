"""Which clips are in a global batch: the same for any number of workers and micro-batches."""

import numpy as np
import pytest
import torch

from stprivacy.config import Train
from stprivacy.data.clips import ShardReader
from stprivacy.errors import UserError
from stprivacy.training.batches import GlobalBatches, num_micro_batches
from tests.unit.evaluation_files import CLIP, noise_clips, random_labels, write_dataset

SIZES = {"train": 19, "val": 2, "test": 2}


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    actions, attributes = random_labels(SIZES)
    return ShardReader(write_dataset(tmp_path_factory.mktemp("data"), noise_clips(SIZES, (6, 16, 20)), actions, attributes), "train")


def batches(reader, rank=0, world_size=1, **train):
    settings = Train(**{"global_batch": 8, "micro_batch": 8, **train})
    return GlobalBatches(reader, CLIP, settings, rank, world_size, torch.device("cpu"))


@pytest.mark.parametrize(("world_size", "micro_batch"), [(1, 8), (1, 3), (2, 4), (2, 2), (4, 1)])
def test_the_parts_of_all_workers_make_the_same_global_batch(reader, world_size, micro_batch):
    whole = list(batches(reader).epoch(1))
    workers = [batches(reader, rank, world_size, micro_batch=micro_batch) for rank in range(world_size)]
    for (expected,), *shares in zip(whole, *(worker.epoch(1) for worker in workers), strict=True):
        parts = [part for share in shares for part in share]
        assert [part.part for part in parts] == list(range(len(parts)))
        assert {part.num_parts for part in parts} == {len(parts)}
        assert {part.step for part in parts} == {expected.step}
        assert {len(part.clips) for part in parts} == {8 // len(parts)}
        assert tuple(sample for part in parts for sample in part.samples) == expected.samples
        for name in ("clips", "actions", "attributes"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(expected, name))


def test_an_epoch_takes_every_clip_once_but_for_what_fills_no_batch(reader):
    epochs = [[sample for (part,) in batches(reader).epoch(epoch) for sample in part.samples] for epoch in range(6)]
    for samples in epochs:
        assert len(samples) == len(set(samples)) == 16
    assert set().union(*epochs) == set(range(19))
    assert epochs[0] != epochs[1]


def test_several_windows_an_epoch_take_every_clip_so_often_each_from_a_window_of_its_own(reader):
    parts = [part for (part,) in batches(reader, windows_per_epoch=4).epoch(0)]
    samples = [sample for part in parts for sample in part.samples]
    counts = np.bincount(samples, minlength=19)
    assert len(samples) == 72  # 4 · 19 in batches of 8
    assert counts.max() == 4
    clips = torch.cat([part.clips for part in parts])
    assert len({clips[place].numpy().tobytes() for place, sample in enumerate(samples) if sample == samples[0]}) > 1


def test_steps_are_counted_through_all_epochs(reader):
    worker = batches(reader)
    assert worker.steps_per_epoch == 2
    assert [part.step for epoch in range(3) for (part,) in worker.epoch(epoch)] == list(range(6))


def test_clips_are_floats_of_the_clip_s_shape_with_the_labels_of_their_sample(reader):
    (part,) = next(batches(reader).epoch(0))
    assert part.clips.shape == (8, 3, CLIP.num_frames, CLIP.size, CLIP.size)
    assert (part.clips.min() >= 0, part.clips.max() <= 1) == (True, True)
    assert part.actions.tolist() == reader.actions[list(part.samples)].tolist()
    assert part.attributes.tolist() == reader.attributes[list(part.samples)].tolist()


def test_the_processes_that_read_ahead_change_nothing(reader):
    for (mine,), (theirs,) in zip(batches(reader).epoch(0), batches(reader, loader_processes=1).epoch(0), strict=True):
        assert torch.equal(mine.clips, theirs.clips)


@pytest.mark.parametrize(("share", "micro_batch", "parts"), [(24, 24, 1), (24, 12, 2), (24, 23, 2), (24, 7, 4), (7, 3, 7), (5, 9, 1)])
def test_micro_batches_are_equal_fit_and_are_as_few_as_can_be(share, micro_batch, parts):
    assert num_micro_batches(Train(global_batch=2 * share, micro_batch=micro_batch), 2) == parts


def test_a_batch_that_workers_cannot_share_or_clips_cannot_fill_is_refused(reader):
    with pytest.raises(UserError, match="global_batch = 8: not a multiple of the 3 workers"):
        batches(reader, world_size=3)
    with pytest.raises(UserError, match="global_batch = 20: larger than the 19 training clips"):
        batches(reader, global_batch=20)
