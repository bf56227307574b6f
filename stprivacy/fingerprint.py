"""What a cached result was made from: content hashes of files and of our own code, so that nothing stale is ever taken up."""

import hashlib
from pathlib import Path

PACKAGE = Path(__file__).parent


def fingerprint(*paths: Path) -> str:
    """12 digits over names and bytes of the files, and of all files below the folders, in sorted order."""
    digest = hashlib.sha256()
    for path in paths:
        files = sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts) if path.is_dir() else [path]
        for file in files:
            digest.update(file.relative_to(path.parent).as_posix().encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:12]


def code_fingerprint(*modules: str) -> str:
    """The same over parts of this package, such as `training` or `data/clips.py`."""
    return fingerprint(*(PACKAGE / module for module in modules))
