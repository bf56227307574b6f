"""Ray Train's controller, watched: what happens to the workers is said in a line each, and waiting for room has an end."""

import logging
import time

import ray
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import (
    InitializingState,
    ReschedulingState,
    RestartingState,
    SchedulingState,
    TrainControllerState,
)

from stprivacy.errors import RunError

WAITING = (InitializingState, RestartingState, SchedulingState, ReschedulingState)
SAY_AFTER_S = 20.0
"""Of waiting; starting workers takes about that long where there is room."""


class Watch(ControllerCallback):
    """Raises RunError, which ends the run, when the workers have found no room for `patience_s` on end.

    Ray would wait for ever. It has a limit for failed starts, but over the life of a run, and none for a number of workers that may vary.
    """

    def __init__(self, num_workers: int | tuple[int, int], patience_s: float):
        self.num_workers = str(num_workers) if isinstance(num_workers, int) else f"{num_workers[0]} to {num_workers[1]}"
        self.patience_s = patience_s
        self.waits_since: float | None = None
        self.told = False

    def after_controller_start(self, train_run_context: object) -> None:
        logging.getLogger("ray.train").setLevel(logging.CRITICAL)  # in the controller's process: its tracebacks say less than our lines

    def after_controller_state_update(self, previous_state: TrainControllerState, current_state: TrainControllerState) -> None:
        if isinstance(current_state, RestartingState) and not isinstance(previous_state, RestartingState):
            said = [line.strip() for line in str(current_state.training_failed_error).splitlines() if line.strip()]
            print(f"workers were lost; starting again from the last checkpoint ({said[-1][:200]})", flush=True)
        if not isinstance(current_state, WAITING):
            self.waits_since, self.told = None, False
            return
        now = time.monotonic()
        self.waits_since = self.waits_since or now
        waited = now - self.waits_since
        if waited >= self.patience_s:
            raise RunError(f"no room for {self.num_workers} workers in {waited:.0f} s ({_room()}); add nodes, or ask for fewer workers")
        if waited >= SAY_AFTER_S and not self.told:
            self.told = True
            print(f"waiting for room for {self.num_workers} workers ({_room()}), {self.patience_s:.0f} s at most", flush=True)


def _room() -> str:
    there, free = ray.cluster_resources(), ray.available_resources()
    named = [f"{free.get(kind, 0):g} of {there[kind]:g} {kind}s free" for kind in ("CPU", "GPU") if there.get(kind)]
    return ", ".join(named) or "the cluster has no CPUs"
