"""This worker's share of every global batch, epoch by epoch, in an order that the number of workers does not change."""

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader

from stprivacy.config import Clip, Train
from stprivacy.data.clips import ShardReader, TrainingClips, epoch_order
from stprivacy.errors import UserError
from stprivacy.models.channel import to_float
from stprivacy.training.task import Batch


class GlobalBatches:
    """Yields, for each step of an epoch, the micro-batches of worker `rank` of `world_size`.

    An epoch goes through the training clips `train.windows_per_epoch` times, each time in a new order and with new windows. A global
    batch is cut into world_size × num_parts equal parts, worker by worker. What is left after the last full global batch is left out.
    """

    def __init__(self, reader: ShardReader, clip: Clip, train: Train, rank: int, world_size: int, device: torch.device):
        if train.global_batch % world_size:
            raise UserError(
                f"params.yaml: train.global_batch = {train.global_batch}: not a multiple of the {world_size} workers; change one of them"
            )
        if len(reader) < train.global_batch:
            raise UserError(
                f"params.yaml: train.global_batch = {train.global_batch}: larger than the {len(reader)} training clips; lower it"
            )
        self.clips = TrainingClips(reader, clip, train.seed)
        self.train, self.rank, self.world_size, self.device = train, rank, world_size, device
        self.share = train.global_batch // world_size
        self.num_parts = num_micro_batches(train, world_size)
        self.steps_per_epoch = len(reader) * train.windows_per_epoch // train.global_batch

    def epoch(self, epoch: int) -> Iterator[list[Batch]]:
        """The steps of an epoch (counted from 0): each a list of this worker's micro-batches."""
        passes = range(epoch * self.train.windows_per_epoch, (epoch + 1) * self.train.windows_per_epoch)
        order = [(i, int(index)) for i in passes for index in epoch_order(len(self.clips.reader), self.train.seed, i)]
        first = self.rank * self.share
        mine = [order[s * self.train.global_batch :][first : first + self.share] for s in range(self.steps_per_epoch)]
        self.clips.reader.fetch_ahead(index for step in mine for _, index in step)
        loader = DataLoader(self.clips, batch_sampler=mine, num_workers=self.train.loader_processes, pin_memory=self.device.type == "cuda")
        for step, items in enumerate(loader, start=epoch * self.steps_per_epoch):
            yield self._parts(items, step)

    def _parts(self, items: dict[str, torch.Tensor], step: int) -> list[Batch]:
        chunks = {name: values.to(self.device, non_blocking=True).chunk(self.num_parts) for name, values in items.items()}
        return [
            Batch(
                clips=to_float(chunks["clip"][part]),
                actions=chunks["action"][part],
                attributes=chunks["attributes"][part],
                samples=tuple(chunks["index"][part].tolist()),
                step=step,
                part=self.rank * self.num_parts + part,
                num_parts=self.world_size * self.num_parts,
            )
            for part in range(self.num_parts)
        ]


def num_micro_batches(train: Train, world_size: int) -> int:
    """The fewest equal micro-batches, each of at most `train.micro_batch` clips, that make a worker's share of the global batch."""
    share = train.global_batch // world_size
    return next(parts for parts in range(1, share + 1) if share % parts == 0 and share // parts <= train.micro_batch)
