"""VP-HMDB51 and VP-UCF101: five attributes a video, shipped in `labels/` beside the official splits; the person supplies the videos.

The label files are text, a line a video: `<class>/<video>` and its digits. They were made from the authors' pickles by
`stprivacy labels import`; a pickle is a program, so it is read only through an unpickler that can build plain arrays and nothing else.
"""

import hashlib
import io
import os
import pickle
import pickletools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from stprivacy.config import VP_ATTRIBUTES, VPDataset
from stprivacy.data.annotations import Catalogue, Video, key_of, match_files
from stprivacy.errors import UserError

LABELS = Path(__file__).parent / "labels"
NUM_SPLITS = 3
UNUSED, TRAIN, TEST = 0, 1, 2
"""The digits of a split file, as in HMDB51's own lists."""
LARGEST_PICKLE = 64 * 2**20
"""Bytes; the authors' larger one has 1.5 million."""
UNPICKLING_FAILURES = (
    pickle.UnpicklingError, AttributeError, EOFError, ImportError, IndexError, KeyError, MemoryError, OverflowError, TypeError, ValueError,
)  # fmt: skip
"""What reading a broken or hostile pickle can raise: the pickle module says that it may be any of these."""
HMDB_TAIL = re.compile(r"_[hulf]_(?:nm|cm)_np\d+_(?:fr|le|ri|ba)_(?:goo|med|bad)_\d+$")
"""What follows the action in an HMDB51 file name: visible parts, camera motion, people, viewpoint, quality, number."""


def vp(dataset: VPDataset) -> Catalogue:
    """The videos below `source` (`<class>/<video>.avi` or `.mp4`) with shipped labels, in the official split."""
    kind = dataset.kind.removeprefix("vp-")
    labels = read_digits(LABELS / f"vp-{kind}.txt", len(VP_ATTRIBUTES))
    splits = read_digits(LABELS / f"{kind}-splits.txt", NUM_SPLITS)
    root = Path(dataset.source)
    found, report = match_files(root, labels)
    videos = [
        Video(
            key=key_of(f"{name}.mp4"),
            path=path,
            action=name.split("/")[0],
            split="train" if splits[name][dataset.split - 1] == TRAIN else "test",
            group=film_of(name) if kind == "hmdb51" else scene_of(name),
            attributes=tuple(float(value) for value in labels[name]),
        )
        for name, path in sorted(found.items())
        if splits[name][dataset.split - 1] != UNUSED
    ]
    unused = sorted(name for name in found if splits[name][dataset.split - 1] == UNUSED)
    report[f"videos that official split {dataset.split} leaves out"] = unused
    return Catalogue(root, tuple(videos), VP_ATTRIBUTES, report)


def film_of(name: str) -> str:
    """The source film of an HMDB51 video `<class>/<film>_<class>_<properties>`. Raises UserError on another name."""
    action, video = name.split("/", 1)
    before = HMDB_TAIL.sub("", video)
    if before == video or not before.endswith(f"_{action}"):
        raise UserError(f"{name}: not named like an HMDB51 video, <film>_{action}_<properties>; give the file its original name")
    return before.removesuffix(f"_{action}")


def scene_of(name: str) -> str:
    """The g-number of a UCF101 video with its class: clips `_c01`, `_c02` … are cut from one recording."""
    scene, clip = name[:-4], name[-4:]
    if not re.fullmatch(r"_c\d\d", clip):
        raise UserError(f"{name}: not named like a UCF101 video, v_<class>_gNN_cNN; give the file its original name")
    return scene


# ------------------------------------------------------------------------------------------------ the text files


def read_digits(path: Path, num_digits: int) -> dict[str, tuple[int, ...]]:
    """A label or split file: `<class>/<video>` → digits. Raises UserError naming the line that is not so."""
    table: dict[str, tuple[int, ...]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("# "):
            continue
        name, _, digits = line.rpartition(" ")
        if not name or len(digits) != num_digits or not (digits.isascii() and digits.isdigit()):
            raise UserError(f"{path}: line {number}: expected <class>/<video> and {num_digits} digits; restore the file with git")
        table[name] = tuple(int(digit) for digit in digits)
    return table


def write_digits(path: Path, header: Iterable[str], table: dict[str, tuple[int, ...]]) -> None:
    """Write what `read_digits` reads, sorted, whole or not at all."""
    lines = [f"# {line}" for line in header] + [f"{name} {''.join(map(str, digits))}" for name, digits in sorted(table.items())]
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    os.replace(temporary, path)


# ------------------------------------------------------------------------------------------------ importing


class _PlainType:
    """Stands in for numpy.dtype: one of numpy's number types, its byte order, and nothing else of a dtype's state."""

    def __init__(self, code: object = None, *_: object):
        if not (isinstance(code, str) and re.fullmatch(r"[iuf][1248]|b1", code)):
            raise pickle.UnpicklingError(f"it holds an array of {code!r}, and labels are numbers")
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "|"):
            raise pickle.UnpicklingError(f"it has numbers of byte order {state[1]!r}")
        self.code = state[1] + self.code


class _PlainArray:
    """Stands in for numpy.ndarray: the numbers of an array."""

    values: tuple[float, ...] = ()

    def __init__(self, *_: object):
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, _, kind, _, content = state
        if not isinstance(kind, _PlainType):
            raise pickle.UnpicklingError("it has an array without a type")
        self.values = tuple(np.frombuffer(content, kind.code).tolist())


class _ArrayUnpickler(pickle.Unpickler):
    """Builds dicts, texts, numbers and arrays of numbers; whatever else a pickle names is refused before it is looked up.

    Arrays are read by our own stand-ins: numpy's would believe a hostile pickle's state, which can name pointers.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"), ("numpy", "ndarray")):
            return _PlainArray
        if (module, name) == ("numpy", "dtype"):
            return _PlainType
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, and labels are arrays of numbers")


def import_labels(source: Path, target: Path) -> int:
    """Write the text form of an authors' pickle (dict of `<class>/<video>.mp4` → array (1, 5) of 0 and 1); gives the number of videos.

    This is the command `stprivacy labels import PICKLE OUT`. Raises UserError when the pickle is missing, holds anything else, or
    tries to run code.
    """
    if not source.is_file():
        raise UserError(f"{source}: no such file; name the pickle of the authors' annotations folder")
    if source.stat().st_size > LARGEST_PICKLE:
        raise UserError(f"{source}: more than {LARGEST_PICKLE} bytes, too many for labels; give an authors' pickle")
    labels = _labels_in(source)
    table = {}
    for name, values in labels.items():
        plain = values.values if isinstance(values, _PlainArray) else ()
        if not (isinstance(name, str) and name.isprintable() and re.fullmatch(r"[^/\n]+/[^/\n]+\.\w+", name)):
            raise UserError(f"{source}: {str(name)[:80]!r} is not named <class>/<video>.mp4; import the authors' pickle as it is")
        if len(plain) != len(VP_ATTRIBUTES) or any(value not in (0, 1) for value in plain):
            raise UserError(f"{source}: {name}: expected {len(VP_ATTRIBUTES)} values 0 or 1; import the authors' pickle as it is")
        table[name.rpartition(".")[0]] = tuple(int(value) for value in plain)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    header = (
        f"<class>/<video>, then 0 or 1 for {', '.join(VP_ATTRIBUTES)}",
        f"from {source.name}, SHA-256 {digest}; credit and licence: LICENSES.md beside this file",
    )
    write_digits(target, header, table)
    return len(table)


def _refuse_large_memo(content: bytes) -> None:
    """The unpickler makes a table as long as the largest place that a pickle names: a dozen bytes could ask for 64 GB."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= len(content):
            raise pickle.UnpicklingError(f"it remembers something at place {argument}, beyond its own length")


def _labels_in(source: Path) -> dict[Any, Any]:
    content = source.read_bytes()
    try:
        _refuse_large_memo(content)
        labels = _ArrayUnpickler(io.BytesIO(content)).load()
    except UNPICKLING_FAILURES as error:
        raise UserError(f"{source}: refused: {' '.join(str(error).split())[:160]}; import only the authors' own pickles") from None
    if not isinstance(labels, dict) or not labels:
        raise UserError(f"{source}: holds no dict of labels; name the pickle of the authors' annotations folder")
    return labels
