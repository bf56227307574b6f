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
from stprivacy.training.checkpoints import GivenUp
from stprivacy.training.players import Player

Part = TypeVar("Part")
MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW remembers of a parameter, beside the number of steps."""
Loss = Callable[[Part], tuple[Tensor, dict[str, Tensor]]]


class Engine(Protocol):
    """What the loop asks of an engine."""

    def update(self, loss: Loss[Part], parts: Sequence[Part]) -> dict[str, float]:
        """One optimizer step on the mean loss over `parts` and workers; gives the metrics, averaged likewise."""

    def begin_anew(self) -> None:
        """Take over weights that the module was given from outside, and forget the moments of the old ones; the schedule goes on."""

    def save(self, folder: Path) -> None:
        """Write weights, optimizer and schedule; every worker calls it, worker 0 writes."""

    def load(self, folder: Path) -> None:
        """Take over what `save` wrote, by however many workers. Raises RunError where it is of other networks."""


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


def rows_of_all(rows: Tensor) -> Tensor:
    """(B, …) of this worker → (W·B, …) of all workers in their order, without gradients: what a game gathers by."""
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _forget(optimizer: torch.optim.Optimizer) -> None:
    """Zero its moments and counts, in place: DeepSpeed keeps references to them."""
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, Tensor):
                value.zero_()


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
        parameters = list(self.player.module.parameters())
        for parameter in parameters:
            if parameter.grad is None:  # such as a scorer's while nothing is dropped; DeepSpeed counts that as a step with gradient 0
                parameter.grad = torch.zeros_like(parameter)
            if _world_size() > 1:
                dist.all_reduce(parameter.grad)
                parameter.grad /= _world_size()
        if self.clip:
            nn.utils.clip_grad_norm_(parameters, self.clip)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        return _averaged(seen)

    def begin_anew(self) -> None:
        _forget(self.optimizer)

    def save(self, folder: Path) -> None:
        named = self.player.module.named_parameters()
        _write(folder, self.player.module, self.schedule, {name: _whole(self.optimizer, parameter) for name, parameter in named})

    def load(self, folder: Path) -> None:
        state = _read(folder, self.player.module, self.schedule, self.optimizer)
        for name, parameter in self.player.module.named_parameters():
            _adopt(self.optimizer, parameter, state["parameters"][name])


class DeepSpeedEngine:
    """DeepSpeed with ZeRO stage 0, 1 or 2. The other player must be frozen while this one steps (the task sees to it).

    Its own checkpoints are of one number of workers, and pickles. Here each parameter's fp32 weight and moments are put together from
    the workers' parts, by DeepSpeed's own functions, and taken apart again at any number of workers and any stage.
    """

    def __init__(self, player: Player, train: Train, num_parts: int):
        deepspeed = _import_deepspeed()
        self.player = player
        self.basic, self.schedule = _optimizer(player, train)
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
            model=player.module, optimizer=self.basic, lr_scheduler=self.schedule, config=config, dist_init_required=False
        )

    def update(self, loss: Loss[Part], parts: Sequence[Part]) -> dict[str, float]:
        seen = []
        for part in parts:
            value, metrics = loss(part)
            self.engine.backward(value)
            self.engine.step()  # steps the optimizer at the last part alone
            seen.append(metrics)
        return _averaged(seen)

    def begin_anew(self) -> None:
        if hasattr(self.optimizer, "refresh_fp32_params"):  # ZeRO and bf16 step copies of the weights
            self.optimizer.refresh_fp32_params()
        _forget(self.basic)

    def save(self, folder: Path) -> None:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if not self.basic.state:  # DeepSpeed leaves a step out whose gradients are not finite: on every worker alike
            raise GivenUp("no gradient was finite from the first step on; lower the weights or learning rates of train")
        step = next(iter(self.basic.state.values()))["step"]
        masters, state = self._masters(), {}
        if not masters:
            self._link_moments()
        for name, parameter in self.player.module.named_parameters():
            if parameter in masters:
                state[name] = _whole(self.basic, masters[parameter])
            else:  # an all-reduce each: all workers must come here
                moments = {moment: safe_get_full_optimizer_state(parameter, moment).cpu() for moment in MOMENTS}
                state[name] = {"weight": safe_get_full_fp32_param(parameter).cpu(), "step": step, **moments}
        _write(folder, self.player.module, self.schedule, state)

    def load(self, folder: Path) -> None:
        self._adopt(_read(folder, self.player.module, self.schedule, self.basic)["parameters"])

    def _masters(self) -> dict[nn.Parameter, Tensor]:
        """The fp32 tensor that is stepped for each parameter, at stage 0, where every worker has all of it; empty at stages 1 and 2."""
        if hasattr(next(self.player.module.parameters()), "_hp_mapping"):
            return {}
        if self.optimizer is self.basic:  # fp32: the parameters themselves
            return {parameter: parameter for parameter in self.player.module.parameters()}
        pairs = zip(self.optimizer.fp16_groups, self.optimizer.fp32_groups, strict=True)  # bf16, by the name of its ancestor
        return {parameter: master for group in pairs for parameter, master in zip(*group, strict=True)}

    def _link_moments(self) -> None:
        """Tell each parameter where its moments are in this worker's flat parts; DeepSpeed does so when only the first group has any."""
        self.optimizer._hp_optimizer_states_linked = False
        self.optimizer._lazy_init_hp_params_optimizer_state()

    def _adopt(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Step on from these weights and moments."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        masters = self._masters()
        if not masters:  # the moments of a worker's flat parts appear with the first step: here they must be there before
            step = next(iter(state.values()))["step"]
            for flat in (flat for group in self.basic.param_groups for flat in group["params"]):
                self.basic.state[flat] = {"step": step.clone(), **{moment: torch.zeros_like(flat) for moment in MOMENTS}}
            self._link_moments()
        for name, parameter in self.player.module.named_parameters():
            if parameter in masters:
                _adopt(self.basic, masters[parameter], state[name])
                with torch.no_grad():
                    parameter.copy_(masters[parameter])
            else:
                safe_set_full_fp32_param(parameter, state[name]["weight"].to(parameter.device))
                for moment in MOMENTS:
                    safe_set_full_optimizer_state(parameter, state[name][moment].to(parameter.device), moment)
        if not masters:
            self.optimizer.update_lp_params()  # what the modules compute with, from all workers' parts


def _whole(optimizer: AdamW, parameter: Tensor) -> dict[str, Tensor]:
    """Weight, moments and number of steps of a parameter that this worker has all of."""
    known = optimizer.state[parameter]
    return {"weight": parameter.detach().cpu(), "step": known["step"], **{moment: known[moment].cpu() for moment in MOMENTS}}


def _adopt(optimizer: AdamW, parameter: Tensor, state: dict[str, Tensor]) -> None:
    """The inverse of `_whole`."""
    with torch.no_grad():
        parameter.copy_(state["weight"])
    moments = {moment: state[moment].to(parameter.device, copy=True) for moment in MOMENTS}
    optimizer.state[parameter] = {"step": state["step"].clone(), **moments}


def _write(folder: Path, module: nn.Module, schedule: LambdaLR, parameters: dict[str, dict[str, Tensor]]) -> None:
    """Worker 0 writes for all: parameter by parameter, whichever engine, stage and number of workers it was trained with."""
    if _world_size() == 1 or dist.get_rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        buffers = {name: buffer.cpu() for name, buffer in module.named_buffers()}
        torch.save({"parameters": parameters, "buffers": buffers, "schedule": schedule.state_dict()}, folder / "engine.pt")


def _read(folder: Path, module: nn.Module, schedule: LambdaLR, optimizer: AdamW) -> dict[str, Any]:
    """What `_write` left; buffers, schedule and rates are taken over here."""
    state: dict[str, Any] = torch.load(folder / "engine.pt", map_location="cpu", weights_only=True)
    if state["parameters"].keys() != dict(module.named_parameters()).keys():
        raise RunError(f"{folder}: of other networks than these; remove the run's folder to start again")
    for name, buffer in module.named_buffers():
        buffer.copy_(state["buffers"][name])
    schedule.load_state_dict(state["schedule"])
    for group, rate in zip(optimizer.param_groups, schedule.get_last_lr(), strict=True):
        group["lr"] = rate
    return state


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
