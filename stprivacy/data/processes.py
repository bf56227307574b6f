"""Worker processes that do not outlive the stage they work for."""

import os
import threading
from multiprocessing import parent_process
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """Initializer of a worker: it ends when its parent does.

    After `kill -9` of a stage nobody tells its workers: an executor's wait for work for ever, and a decoder hangs on.
    """
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent.sentinel,), daemon=True).start()


def _watch(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
