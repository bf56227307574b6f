"""What a cached result was made from: names and bytes, wherever the files lie and whenever they were written."""

import os

from stprivacy.fingerprint import code_fingerprint, fingerprint


def folder_with(path, files):
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
    return path


def test_equal_folders_are_equal_wherever_they_lie_and_whenever_they_were_written(tmp_path):
    files = {"a.txt": "1", "deep/b.txt": "2"}
    one, two = folder_with(tmp_path / "x" / "data", files), folder_with(tmp_path / "y" / "data", dict(reversed(files.items())))
    os.utime(two / "a.txt", (1, 1))
    assert fingerprint(one) == fingerprint(two)


def test_another_byte_name_or_file_is_another_fingerprint(tmp_path):
    versions = [{"a": "1"}, {"a": "2"}, {"b": "1"}, {"a": "1", "b": ""}, {"deep/a": "1"}, {"a": "1\0"}]
    found = [fingerprint(folder_with(tmp_path / str(index) / "data", files)) for index, files in enumerate(versions)]
    assert len(set(found)) == len(versions)


def test_what_python_compiled_does_not_count(tmp_path):
    before = fingerprint(folder_with(tmp_path, {"a.py": "1"}))
    assert fingerprint(folder_with(tmp_path, {"__pycache__/a.pyc": "compiled"})) == before


def test_parts_of_the_code_have_fingerprints_of_their_own():
    assert code_fingerprint("training") != code_fingerprint("models")
    assert code_fingerprint("training", "models") != code_fingerprint("training")
    assert len(code_fingerprint("data/clips.py")) == 12
