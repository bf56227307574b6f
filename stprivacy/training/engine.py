"""One engine a player: how a loss becomes an optimizer step, on one process or many. The only file that imports DeepSpeed."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from stprivacy.config import Train
from stprivacy.errors import RunError
from stprivacy.training.players import Player

Part = TypeVar("Part")
Loss = Callable[[Part], tuple[Tensor, dict[str, Tensor]]]


class Engine(Protocol):
    """What the loop asks of an engine."""

    def update(self, loss: Loss[Part], parts: Sequence[Part]) -> dict[str, float]:
        """One optimizer step on the mean loss over `parts` and workers; gives the metrics, averaged likewise."""

    def save(self, folder: Path) -> None:
        """Write weights, optimizer and schedule; every worker calls it, each writes its own part."""

    def load(self, folder: Path) -> None:
        """Take over what `save` wrote. Raises RunError where another number of workers wrote it."""


def build_engine(player: Player, train: Train, num_parts: int) -> Engine:
    """`deepspeed` or the plain-`torch` engine for a player whose steps have `num_parts` micro-batches a worker."""
    return DeepSpeedEngine(player, train, num_parts) if train.engine == "deepspeed" else TorchEngine(player, train)


def _optimizer(player: Player, train: Train) -> tuple[AdamW, LambdaLR]:
    """AdamW over the player's groups, each with its own rate and schedule. No decay on biases, norms and position tables."""
    groups, schedules = [], []
    for group in player.groups:
        matrices = [p for p in group.parameters if p.ndim > 1]
        vectors = [p for p in group.parameters if p.ndim <= 1]
        for parameters, decay in ((matrices, train.weight_decay), (vectors, 0.0)):
            groups.append({"params": parameters, "lr": group.learning_rate, "weight_decay": decay})
            schedules.append(group.schedule)
    optimizer = AdamW(groups, betas=train.betas)
    return optimizer, LambdaLR(optimizer, schedules)


def _averaged(metrics: Sequence[dict[str, Tensor]]) -> dict[str, float]:
    """Mean over micro-batches and workers, in one reduction."""
    names = list(metrics[0])
    values = torch.stack([torch.stack([part[name].float() for name in names]) for part in metrics]).mean(0)
    if _world_size() > 1:
        dist.all_reduce(values)
        values /= _world_size()
    return dict(zip(names, values.tolist(), strict=True))


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


class TorchEngine:
    """Plain torch: gradients averaged over workers by one all-reduce each. fp32; for tests and as the yardstick for DeepSpeed."""

    def __init__(self, player: Player, train: Train):
        self.player, self.clip = player, player.gradient_clip
        self.optimizer, self.schedule = _optimizer(player, train)

    def update(self, loss: Loss[Part], parts: Sequence[Part]) -> dict[str, float]:
        seen = []
        for part in parts:
            value, metrics = loss(part)
            (value / len(parts)).backward()
            seen.append(metrics)
        parameters = [p for p in self.player.module.parameters() if p.grad is not None]
        if _world_size() > 1:
            for gradient in [p.grad for p in parameters if p.grad is not None]:
                dist.all_reduce(gradient)
                gradient /= _world_size()
        if self.clip:
            nn.utils.clip_grad_norm_(parameters, self.clip)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        return _averaged(seen)

    def save(self, folder: Path) -> None:
        if _world_size() == 1 or dist.get_rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            state = {
                "module": self.player.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
            }
            torch.save(state, folder / "engine.pt")

    def load(self, folder: Path) -> None:
        state = torch.load(folder / "engine.pt", weights_only=True)
        self.player.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])


class DeepSpeedEngine:
    """DeepSpeed with ZeRO stage 0, 1 or 2. The other player must be frozen while this one steps (the task sees to it)."""

    def __init__(self, player: Player, train: Train, num_parts: int):
        deepspeed = _import_deepspeed()
        optimizer, schedule = _optimizer(player, train)
        micro_batch = train.global_batch // (_world_size() * num_parts)
        config = {
            "train_micro_batch_size_per_gpu": micro_batch,
            "gradient_accumulation_steps": num_parts,
            "gradient_clipping": player.gradient_clip,
            "zero_optimization": {"stage": train.zero_stage},
            "zero_allow_untested_optimizer": True,
            "bf16": {"enabled": train.precision == "bf16"},
            "steps_per_print": 10**9,
        }
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=player.module, optimizer=optimizer, lr_scheduler=schedule, config=config, dist_init_required=False
        )

    def update(self, loss: Loss[Part], parts: Sequence[Part]) -> dict[str, float]:
        seen = []
        for part in parts:
            value, metrics = loss(part)
            self.engine.backward(value)
            self.engine.step()  # steps the optimizer at the last part alone
            seen.append(metrics)
        return _averaged(seen)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.engine.save_checkpoint(str(folder), tag="engine", client_state={"num_workers": _world_size()})

    def load(self, folder: Path) -> None:
        try:
            path, _ = self.engine.load_checkpoint(str(folder), tag="engine")
        except Exception as error:  # DeepSpeed raises a plain Exception or an AssertionError at another world size
            raise RunError(
                f"{folder}: DeepSpeed cannot load this checkpoint on {_world_size()} workers ({' '.join(str(error).split())[:200]})"
            ) from error
        if path is None:
            raise RunError(f"{folder}: no DeepSpeed checkpoint for {_world_size()} workers")


def _import_deepspeed() -> Any:
    """DeepSpeed, without its probes: it would compile CPU kernels with g++ for a minute that nothing here uses."""
    os.environ.setdefault("DS_SKIP_CUDA_CHECK", "1")
    import deepspeed
    import deepspeed.ops

    if not torch.cuda.is_available():
        deepspeed.ops.__dict__["__compatible_ops__"] = {}
    if not deepspeed.comm.is_initialized():
        if not dist.is_initialized():
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo", verbose=False)
    return deepspeed
