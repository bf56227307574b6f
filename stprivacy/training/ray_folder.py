"""Where Ray keeps sockets, logs and the code that jobs bring: in a folder that nobody but its owner can enter.

Ray opens the folder that it is given to everybody (0777). Whoever can write there replaces code that the next job runs, so what Ray is
given lies within a folder of mode 0700.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST = 40
"""Characters of the outer folder: the name of a socket has at most 107, and Ray adds some 65 to the folder it is given."""


def make_ray_folder() -> Path:
    """A new folder for Ray, within a private one of a random name: in the system's folder for temporary files, or in /tmp where
    sockets would not fit into the length of a name there."""
    place = tempfile.gettempdir()
    outer = tempfile.mkdtemp(prefix="stprivacy-ray-", dir=place if len(place) + 24 <= LONGEST else "/tmp")
    inner = Path(outer, "r")
    inner.mkdir()
    return inner


def is_private(folder: Path) -> bool:
    """Is a folder for Ray there, within one that is ours and closed to everybody else?"""
    try:
        outer = folder.parent.lstat()
    except OSError:
        return False
    return folder.is_dir() and stat.S_ISDIR(outer.st_mode) and outer.st_uid == os.getuid() and stat.S_IMODE(outer.st_mode) == 0o700


@contextmanager
def ray_folder() -> Iterator[Path]:
    """A folder for Ray that is deleted with its outer one at the end of the block."""
    folder = make_ray_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder.parent, ignore_errors=True)
