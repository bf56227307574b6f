"""Shards that stay in the storage until they are read: each is fetched once a node, by a thread that is ahead of the reader."""

import os
import sys
import threading
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from stprivacy.data.cache import NodeCache
from stprivacy.data.storage import Entry, Storage, open_storage
from stprivacy.errors import RunError, UserError


class FetchedShards:
    """What `get_folder(…, later=".tar")` has left in the storage, opened by name. Every process that reads has its own."""

    def __init__(self, entries: dict[str, Entry]):
        self.entries = entries
        self.paths: dict[str, Path] = {}
        self.process = 0
        self.ahead: deque[str] = deque()
        self.thread: threading.Thread | None = None

    def __reduce__(self) -> tuple[type["FetchedShards"], tuple[dict[str, Entry]]]:
        return type(self), (self.entries,)  # connections and threads don't travel

    def open(self, shard: str) -> BinaryIO:
        """The shard's file. What the cache has dropped meanwhile is fetched again. Raises what `Storage.get` raises."""
        for _ in range(3):
            path = self.paths.get(shard)
            try:
                return open(path or self._fetch(shard), "rb")
            except FileNotFoundError:
                self.paths.pop(shard, None)
        raise RunError(f"{self.cache.folder}: {shard} vanished three times while it was opened; raise STPRIVACY_NODE_CACHE_GB")

    def fetch_ahead(self, shards: Iterable[str]) -> None:
        """From now on, fetch these in this order, beside whatever else this process does."""
        self._connect()  # here, since a process that is forked while another thread imports something waits for ever
        if sum(entry.bytes for entry in self.entries.values()) > self.cache.max_bytes:
            return
        self.ahead = deque(shard for shard in dict.fromkeys(shards) if shard in self.entries and shard not in self.paths)
        if self.ahead and not (self.thread and self.thread.is_alive()):
            self.thread = threading.Thread(target=self._run, name="fetch-shards", daemon=True)
            self.thread.start()

    def _run(self) -> None:
        while True:
            try:
                self._fetch(self.ahead.popleft())
            except IndexError:
                return
            except (UserError, RunError) as error:
                # The reader comes to this shard, too, and fails there if it still cannot be had.
                print(f"warning: not fetched ahead: {error}", file=sys.stderr, flush=True)
                return

    def _fetch(self, shard: str) -> Path:
        self._connect()
        self.paths[shard] = path = self.cache.fetch(self.storage, self.entries[shard].sha256)
        return path

    def _connect(self) -> None:
        """Storage and cache of this process: connections must not be shared over a fork."""
        if self.process == os.getpid():
            return
        self.storage: Storage = open_storage()
        self.cache = NodeCache.of_this_node()
        self.process, self.thread = os.getpid(), None
        needed = sum(entry.bytes for entry in self.entries.values())
        if needed > self.cache.max_bytes:
            print(
                f"warning: {self.cache.folder}: holds {self.cache.max_bytes / 1e9:g} GB, the shards are {needed / 1e9:.3g} GB and will be "
                "fetched again and again; raise STPRIVACY_NODE_CACHE_GB",
                file=sys.stderr,
                flush=True,
            )
