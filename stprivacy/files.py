"""Files that appear whole, under a name that nobody can foresee until then."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PREFIX, SUFFIX = ".stprivacy-", ".part"
"""Of a file that is being written; what a killed process left is told by them."""


@contextmanager
def atomic_write(target: Path, before: Callable[[Path], None] = lambda part: None) -> Iterator[BinaryIO]:
    """A file to write that takes the name `target` when the block ends, and is deleted when it fails.

    It is opened by a random name in the target's folder, and only if nothing is there, a link included (O_EXCL, O_NOFOLLOW): nothing
    that was there is written to. `before`: called with the finished file just before it takes its name. Its mode is what the umask
    says. Raises OSError as `open` does.
    """
    part = target.parent / f"{PREFIX}{secrets.token_hex(8)}{SUFFIX}"
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        before(part)
        os.replace(part, target)
    finally:
        with suppress(OSError):  # it has its name by now
            part.unlink()


def same_file(one: Path, other: Path) -> bool:
    """Are both the same file, by whatever names and links?"""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
