"""What a node has fetched from the storage: each object once for all of its processes, below a limit of bytes."""

import contextlib
import os
import tempfile
import time
from pathlib import Path

from stprivacy.data.storage import OBJECTS, SHA256, Storage, alone, make_own_folder, named_sha256, told
from stprivacy.errors import UserError

GRACE_S = 600.0
"""A file that was asked for so recently is being opened, or soon will be: it stays, also above the limit."""
ABANDONED_S = 86400.0
GIGABYTES = 100.0


class NodeCache:
    """Objects of a storage in a folder of this node, named by their checksums; the longest unused go when it is full.

    A file may go while somebody still has it open (its bytes stay until it is closed); who comes later fetches it again.
    """

    def __init__(self, folder: Path, max_bytes: int):
        self.folder, self.max_bytes = folder, max_bytes

    @classmethod
    def of_this_node(cls) -> "NodeCache":
        """At STPRIVACY_NODE_CACHE (by default a folder in the system's for temporary files), of at most STPRIVACY_NODE_CACHE_GB (100)."""
        folder = os.environ.get("STPRIVACY_NODE_CACHE") or f"{tempfile.gettempdir()}/stprivacy-{os.getuid()}"
        said = os.environ.get("STPRIVACY_NODE_CACHE_GB") or str(GIGABYTES)
        try:
            gigabytes = float(said)
        except ValueError:
            gigabytes = 0.0
        if not 0 < gigabytes < float("inf"):
            raise UserError(f"STPRIVACY_NODE_CACHE_GB = {said}: must be a number of gigabytes above 0; unset it or mend it")
        return cls(Path(folder), int(gigabytes * 1e9))

    def fetch(self, storage: Storage, key_or_sha: str, sha256: str | None = None) -> Path:
        """The object's file on this node, fetched when it isn't there. A bare checksum means the object `objects/<checksum>`.

        Raises UserError when a key comes without its checksum, and what `Storage.get` raises.
        """
        key = f"{OBJECTS}/{key_or_sha}" if SHA256.fullmatch(key_or_sha) else key_or_sha
        name = sha256 or named_sha256(key)
        if not name or not SHA256.fullmatch(name):
            raise UserError(f"{storage.url}/{key}: the node's cache needs its SHA-256; give the one that `put` gave")
        path = self.folder / name
        if _touched(path):
            return path
        with told(path):
            make_own_folder(self.folder)
            with alone(path):
                if not _touched(path):
                    storage.get_alone(key, path, name)
                    self._make_room()
        return path

    def _make_room(self) -> None:
        """Remove what was unused longest until the limit is kept; what was asked for lately stays."""
        with alone(self.folder):
            for part in self.folder.glob(".*.part"):  # of processes that were killed and whose object nobody asked for again
                with contextlib.suppress(FileNotFoundError):  # another process has just ended its own fetch
                    if time.time() - part.stat().st_mtime > ABANDONED_S:
                        part.unlink()
            files = []
            for path in self.folder.iterdir():
                if SHA256.fullmatch(path.name):
                    with contextlib.suppress(FileNotFoundError):  # a purge has just removed it
                        files.append((path, path.stat()))
            total = sum(stat.st_size for _, stat in files)
            for path, stat in sorted(files, key=lambda file: file[1].st_mtime):
                if total <= self.max_bytes or time.time() - stat.st_mtime < GRACE_S:
                    return
                path.unlink(missing_ok=True)
                total -= stat.st_size


def _touched(path: Path) -> bool:
    """Is it there? Its time of change says when it was last asked for."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True
