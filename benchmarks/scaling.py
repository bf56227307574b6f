"""How training grows from one worker to two on this machine, and what a run on many GPUs would take.

    python -m benchmarks.scaling                                                        measure here, about two minutes
    python -m benchmarks.scaling --plan params/vp-hmdb51.yaml --gpus 8 --nodes 1        print a plan; runs no training

Measured is the game at VP-Synth's configuration, by the loop, the loader and the engines that `train` uses, on the CPU, one thread a
worker, workers as processes that talk by gloo over loopback (no Ray). The same global batch is played by one worker and by two, at
ZeRO 0, 1 and 2, a turn at a time in alternation, so that a machine that is busy for a while slows all down alike. Two workers need two
idle cores: on fewer, or busy ones, the speed-up says nothing. Bytes are those that reached each worker's own sockets (the kernel's
counters, Linux), so other programs' traffic isn't in them. Writes results/scaling.json.

A plan is arithmetic on the networks of a params file. It knows no GPU: how long a step takes there is for you to measure (one epoch of
`train`; results/train/history.csv has time/step_s) and to give as --init-seconds and --game-seconds, and --trial-seconds for a trial of
the sweep, which has GPUs of its own. docs/scaling.md explains the rest.
"""

import argparse
import contextlib
import json
import os
import queue
import socket
import stat
import statistics
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.scaling_plan import ZERO_STAGES, Known, Sizes, game_of, plan, step_bytes, train_clips
from benchmarks.stand_ins import write_noise
from stprivacy.config import Params, load_params
from stprivacy.data.clips import ShardReader
from stprivacy.errors import RunError, UserError, exit_with_one_line
from stprivacy.training.batches import GlobalBatches
from stprivacy.training.engine import build_engine, rows_of_all
from stprivacy.training.loop import Phase, play
from stprivacy.training.players import adversary_player, anonymizer_player
from stprivacy.training.task import Batch

NUM_CLIPS, NUM_ACTIONS, NUM_ATTRIBUTES = 480, 8, 5
COLLECTIVES = ("all_reduce", "reduce", "reduce_scatter_tensor", "all_gather", "all_gather_into_tensor", "broadcast")
PATIENCE_S = 300.0
"""For a turn, and for DeepSpeed to start on a busy machine."""


@dataclass(frozen=True)
class Turn:
    """What one worker saw of a turn of `steps` steps."""

    seconds: float
    waiting: float
    """Seconds of these in the loader."""
    received: int
    """Bytes that reached its sockets."""
    collectives: dict[str, int]
    """Bytes handed to torch.distributed by the name of the call: the whole tensor that is reduced or gathered."""
    adam: int
    """Bytes of both players' Adam moments on this worker."""


# ---------------------------------------------------------------------------------------------------- a worker


class TimedBatches(GlobalBatches):
    """Global batches that know how long the loop has waited for them."""

    waiting = 0.0

    def epoch(self, epoch: int) -> Iterator[list[Batch]]:
        batches = super().epoch(epoch)
        while True:
            start = time.perf_counter()
            parts = next(batches, None)
            self.waiting += time.perf_counter() - start
            if parts is None:
                return
            yield parts


class Ended(Exception):
    """No more turns."""


class Turns:
    """The loop's observer: lets it play as many steps as it is told to, then answers and waits to be told again."""

    def __init__(self, rank: int, orders: Any, answers: Any, batches: TimedBatches, collectives: Counter[str], optimizers: list[Any]):
        self.rank, self.orders, self.answers, self.batches = rank, orders, answers, batches
        self.collectives, self.optimizers = collectives, optimizers
        self.begin()

    def begin(self) -> None:
        self.left = self.orders.get()
        if not self.left:
            raise Ended
        self.collectives.clear()
        self.waited, self.received, self.start = self.batches.waiting, received_bytes(), time.perf_counter()

    def step(self, phase: str, step: int, metrics: dict[str, float]) -> None:
        self.left -= 1
        if not self.left:
            seconds, waiting = time.perf_counter() - self.start, self.batches.waiting - self.waited
            moments = [moment for optimizer in self.optimizers for state in optimizer.state.values() for moment in state.values()]
            adam = sum(moment.nbytes for moment in moments if moment.ndim)
            self.answers.put((self.rank, Turn(seconds, waiting, received_bytes() - self.received, dict(self.collectives), adam)))
            self.begin()

    def epoch(self, phase: Phase, epoch: int) -> bool:
        return True


def received_bytes() -> int:
    """Bytes that have reached this process's TCP sockets, as the kernel counts them (tcpi_bytes_received in linux/tcp.h)."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                with socket.socket(fileno=os.dup(int(name))) as known:
                    if known.family in (socket.AF_INET, socket.AF_INET6) and known.type == socket.SOCK_STREAM:
                        total += struct.unpack_from("Q", known.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256), 128)[0]
    return total


def count_collectives() -> Counter[str]:
    """Bytes by the name of the call, from now on. Before DeepSpeed is imported, which takes the functions from where they are."""
    counted: Counter[str] = Counter()

    def counting(name: str) -> Any:
        original = getattr(dist, name)

        def collective(*args: Any, **kwargs: Any) -> Any:
            sizes = [sum(part.nbytes for part in value) if isinstance(value, list) else getattr(value, "nbytes", 0) for value in args]
            sizes += [getattr(value, "nbytes", 0) for value in kwargs.values()]
            counted[name] += max(sizes)
            return original(*args, **kwargs)

        return collective

    for name in COLLECTIVES:
        setattr(dist, name, counting(name))
    return counted


def work(rank: int, num_workers: int, params: Params, shards: Path, rendezvous: str, orders: list[Any], answers: Any) -> None:
    """One worker of a team: builds the game and plays it, a turn for every order."""
    torch.set_num_threads(1)
    os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_workers)})  # as Ray Train sets them
    collectives = count_collectives()
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=num_workers)
    train, game = params.train, game_of(params, NUM_ACTIONS, NUM_ATTRIBUTES)
    game.gather = rows_of_all
    batches = TimedBatches(ShardReader(shards, "train"), params.clip, train, rank, num_workers, torch.device("cpu"))
    anonymizer = build_engine(anonymizer_player(game.networks, train, "game", 10**6), train, batches.num_parts)
    adversary = build_engine(adversary_player(game.networks, train, 10**6), train, batches.num_parts)
    phase = Phase("game", 10**6, game, game.anonymizer_loss, anonymizer, adversary, train.game.adversary_steps)
    optimizers = [engine.basic for engine in (anonymizer, adversary)]  # type: ignore[attr-defined]
    try:
        play(phase, batches, 0, Turns(rank, orders[rank], answers, batches, collectives, optimizers))
    except Ended:
        dist.destroy_process_group()


# ---------------------------------------------------------------------------------------------------- the teams, side by side


class Team:
    """`num_workers` processes that play one game together, when told to."""

    def __init__(self, params: Params, num_workers: int, zero_stage: int, shards: Path, folder: Path):
        self.name, self.num_workers, self.zero_stage = f"{num_workers} worker(s), ZeRO {zero_stage}", num_workers, zero_stage
        params = params.model_copy(update={"train": params.train.model_copy(update={"zero_stage": zero_stage})})
        context = mp.get_context("spawn")
        self.orders, self.answers = [context.Queue() for _ in range(num_workers)], context.Queue()
        arguments = (num_workers, params, shards, str(folder / self.name.replace(" ", "-")), self.orders, self.answers)
        self.processes = mp.spawn(work, args=arguments, nprocs=num_workers, join=False)

    def turn(self, steps: int) -> list[Turn]:
        """Play so many steps; what each worker saw. Raises RunError when a worker ended or is silent for five minutes."""
        for orders in self.orders:
            orders.put(steps)
        seen: dict[int, Turn] = {}
        deadline = time.monotonic() + PATIENCE_S
        while len(seen) < self.num_workers:
            try:
                rank, turn = self.answers.get(timeout=1.0)
                seen[rank] = turn
            except queue.Empty:
                self._check(deadline)
        return [seen[rank] for rank in range(self.num_workers)]

    def _check(self, deadline: float) -> None:
        try:
            ended = self.processes.join(timeout=0)
        except (mp.ProcessRaisedException, mp.ProcessExitedException) as error:
            raise RunError(f"{self.name}: {str(error).strip().splitlines()[-1]}") from error
        if ended or time.monotonic() > deadline:
            raise RunError(f"{self.name}: no answer for {PATIENCE_S:.0f} s; is the machine busy with something else?")

    def close(self) -> None:
        for orders in self.orders:
            orders.put(0)
        for process in self.processes.processes:
            process.join(timeout=10)
            if process.is_alive():
                process.kill()
                process.join()


def measure(params: Params, rounds: int, steps: int) -> dict[str, list[list[Turn]]]:
    """What the workers of every team saw, round by round, after a turn that isn't counted."""
    # Inherited by the workers: the CPU alone, loopback alone, a thread each, nothing said about DeepSpeed's use of torch.
    os.environ.update({"CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"})
    os.environ["PYTHONWARNINGS"] = "ignore::FutureWarning"
    teams: list[Team] = []
    with tempfile.TemporaryDirectory() as name:
        shards = write_noise(Path(name), params.clip, NUM_CLIPS, NUM_ACTIONS, NUM_ATTRIBUTES)
        try:
            for num_workers, zero_stage in [(1, params.train.zero_stage), *((2, stage) for stage in ZERO_STAGES)]:
                team = Team(params, num_workers, zero_stage, shards, Path(name))
                teams.append(team)
                team.turn(2)
            turns: dict[str, list[list[Turn]]] = {team.name: [] for team in teams}
            for _ in range(rounds):
                for team in teams:
                    turns[team.name].append(team.turn(steps))
            return turns
        finally:
            for team in teams:
                team.close()


# ---------------------------------------------------------------------------------------------------- what it says


def summed_up(params: Params, turns: dict[str, list[list[Turn]]], steps: int) -> dict[str, dict[str, Any]]:
    """By team: medians over rounds, beside what the arithmetic says. Bytes are a worker's and a step's."""
    sizes, train, found = Sizes.of(game_of(params, NUM_ACTIONS, NUM_ATTRIBUTES)), params.train, {}
    for name, rounds in turns.items():
        num_workers, stage = len(rounds[0]), int(name[-1])
        seconds = [max(turn.seconds for turn in workers) for workers in rounds]
        waiting = [max(turn.waiting / turn.seconds for turn in workers) for workers in rounds]
        received = [statistics.mean(turn.received for turn in workers) / steps for workers in rounds]
        theory = {scatter: step_bytes(sizes, train.global_batch, stage, num_workers, scatter=scatter) for scatter in (True, False)}
        found[name] = {
            "clips_per_second": round(steps * train.global_batch / statistics.median(seconds), 3),
            "seconds_per_step": round(statistics.median(seconds) / steps, 4),
            "data_wait_share": round(statistics.median(waiting), 4),
            "bytes": round(statistics.median(received)),
            "bytes_by_theory": round(theory[True]),
            "bytes_if_gradients_are_all_reduced": round(theory[False]),
            "collectives": {call: round(size / steps) for call, size in rounds[-1][0].collectives.items()},
            "adam_bytes": rounds[-1][0].adam,
            "adam_bytes_by_theory": 8 * sizes.trained // (num_workers if stage else 1),
        }
    return found


def show(found: dict[str, dict[str, Any]]) -> None:
    """Print the table."""
    heads = {"clips/s": 9, "s a step": 10, "data wait": 11, "MB a step": 11, "theory": 9, "all-reduce": 12, "Adam MB": 9, "theory ": 9}
    print(f"\n{'':22}" + "".join(f"{head:>{width}}" for head, width in heads.items()))
    for name, row in found.items():
        traffic = [row[key] / 1e6 for key in ("bytes", "bytes_by_theory", "bytes_if_gradients_are_all_reduced")]
        adam = [row[key] / 1e6 for key in ("adam_bytes", "adam_bytes_by_theory")]
        print(
            f"{name:22}{row['clips_per_second']:9.1f}{row['seconds_per_step']:10.3f}{row['data_wait_share']:11.2%}"
            f"{traffic[0]:11.2f}{traffic[1]:9.2f}{traffic[2]:12.2f}{adam[0]:9.2f}{adam[1]:8.2f}"
        )
    print(
        "MB a step: what reaches a worker; theory: by rings; all-reduce: likewise, if ZeRO 1 and 2 all-reduce gradients, as DeepSpeed does"
    )


def run(rounds: int, steps: int, output: Path, params_file: Path = Path("params/vp-synth.yaml")) -> dict[str, Any]:
    """Measure, print and write; gives what is written."""
    params = load_params(params_file)
    begun = time.perf_counter()
    found = summed_up(params, measure(params, rounds, steps), steps)
    show(found)
    one, two = (found[f"{count} worker(s), ZeRO {params.train.zero_stage}"]["clips_per_second"] for count in (1, 2))
    print(f"\ntwo workers over one, ZeRO {params.train.zero_stage}: {two / one:.2f} times the clips a second")
    load = os.getloadavg()[0]
    if load > 2.5 or (os.cpu_count() or 1) < 2:
        print(f"the machine's load was {load:.1f} on {os.cpu_count()} cores: the speed-up is no measure of the program; the bytes are")
    about = {"rounds": rounds, "steps": steps, "cores": os.cpu_count(), "load_at_end": round(load, 2)}
    measured = {"params": str(params_file), "speedup_of_two_workers": round(two / one, 3), "teams": found, "machine": about}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(measured, indent=2, ensure_ascii=False) + "\n")
    print(f"written to {output} after {time.perf_counter() - begun:.0f} s")
    return measured


@exit_with_one_line
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = parser.add_argument_group("measuring here")
    here.add_argument("--rounds", type=int, default=5, help="turns of each team that are counted (%(default)s)")
    here.add_argument("--steps", type=int, default=4, help="steps of a turn (%(default)s)")
    here.add_argument("--output", type=Path, default=Path("results/scaling.json"), help="%(default)s")
    there = parser.add_argument_group("planning a run elsewhere")
    there.add_argument("--plan", type=Path, metavar="FILE", help="params file to plan for, such as params/vp-hmdb51.yaml")
    there.add_argument("--gpus", type=int, default=8, help="GPUs of a node (%(default)s)")
    there.add_argument("--nodes", type=int, default=1, help="nodes (%(default)s)")
    there.add_argument("--init-seconds", type=float, metavar="T", help="seconds of a step of init, measured on such GPUs")
    there.add_argument("--game-seconds", type=float, metavar="T", help="seconds of a step of the game, measured on such GPUs")
    there.add_argument(
        "--trial-seconds", type=float, metavar="T", help="seconds of a step of the game on the GPUs of one trial of the sweep"
    )
    there.add_argument("--node-price", type=float, metavar="P", help="price of a node's hour, in any currency")
    there.add_argument(
        "--train-clips", type=int, metavar="N", help="training clips; vp-hmdb51 and vp-ucf101 are counted, as their labels are shipped"
    )
    there.add_argument("--actions", type=int, default=NUM_ACTIONS, help="with --train-clips: number of actions (%(default)s)")
    there.add_argument("--attributes", type=int, default=NUM_ATTRIBUTES, help="with --train-clips: number of attributes (%(default)s)")
    args = parser.parse_args()
    for name in ("rounds", "steps", "gpus", "nodes"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: must be at least 1")
    if args.plan is None:
        run(args.rounds, args.steps, args.output)
        return
    params = load_params(args.plan)
    data = (args.train_clips, args.actions, args.attributes) if args.train_clips else train_clips(params)
    known = Known(**{name: getattr(args, name) for name in Known.__dataclass_fields__})
    print(plan(params, str(args.plan), args.gpus, args.nodes, data, known))


if __name__ == "__main__":
    main()
