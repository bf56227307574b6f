"""One clip, one release: noise that is drawn from a secret of this installation and from the clip, not anew each time.

Whoever gets several releases of a clip, each with noise of its own, can average the noise away; their rates add up. With one key, the same
clip under the same settings is released bit for bit alike.
"""

import hashlib
import hmac
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

import numpy as np

from stprivacy.errors import UserError
from stprivacy.secret_noise import KEY_BYTES, SecretNoise

VARIABLE = "STPRIVACY_NOISE_KEY"
"""64 hexadecimal digits in the environment, where several machines are to release alike."""


def installation_key() -> bytes:
    """The secret of this installation: from the environment, else from a file that nobody else can read, made when first asked for.

    Raises UserError for a variable that is no key, and for a file that others can read.
    """
    given = os.environ.get(VARIABLE)
    if given is not None:
        try:
            key = bytes.fromhex(given)
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise UserError(f"{VARIABLE}: expected {2 * KEY_BYTES} hexadecimal digits; make some with `openssl rand -hex {KEY_BYTES}`")
        return key
    file = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "stprivacy" / "noise.key"
    if not file.exists():
        _make(file)
    about = file.stat()
    if about.st_uid != os.getuid() or stat.S_IMODE(about.st_mode) & 0o077:
        raise UserError(f"{file}: others can read it, so they can take the noise off releases; delete it, and a new one is made")
    key = file.read_bytes()
    if len(key) != KEY_BYTES:
        raise UserError(f"{file}: is no key of {KEY_BYTES} bytes; delete it, and a new one is made")
    return key


def _make(file: Path) -> None:
    """Write a fresh key, whole or not at all; of two processes that begin together, both get the first one's."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = file.parent / f"{file.name}.{secrets.token_hex(8)}"
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(secrets.token_bytes(KEY_BYTES))
            out.flush()
            os.fsync(out.fileno())
        with suppress(FileExistsError):
            os.link(part, file)
    finally:
        part.unlink()


def clip_noise(key: bytes, settings: bytes, clip: np.ndarray) -> SecretNoise:
    """The stream of a clip uint8 (T, S, S, 3) under settings, which are all that changes its release beside the noise.

    Two settings must not share noise: from two releases of a clip by two models with one noise, it can be computed.
    """
    content = hashlib.sha256(np.ascontiguousarray(clip).tobytes()).digest()
    return SecretNoise(hmac.digest(key, hashlib.sha256(settings).digest() + content, "sha256"))
