"""Ray opens its folder to everybody; it lies in one that only its owner can enter."""

import os
import stat
import tempfile
from pathlib import Path

from stprivacy.services.folder import Folder
from stprivacy.services.programs import ray_folder as service_folder
from stprivacy.training.ray_folder import LONGEST, is_private, make_ray_folder, ray_folder


def test_whatever_the_umask_the_outer_folder_is_its_owners_alone():
    before = os.umask(0)
    try:
        with ray_folder() as folder:
            folder.chmod(0o777)  # as Ray does
            assert is_private(folder)
            assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    finally:
        os.umask(before)
    assert not folder.parent.exists()


def test_sockets_fit_where_the_folder_for_temporary_files_has_a_long_name(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with ray_folder() as folder:
        assert len(str(folder.parent)) <= LONGEST and is_private(folder)


def test_a_folder_that_others_can_enter_or_that_is_a_link_is_not_private(tmp_path):
    (tmp_path / "open" / "r").mkdir(parents=True)
    (tmp_path / "open").chmod(0o755)
    assert not is_private(tmp_path / "open" / "r")
    (tmp_path / "open").chmod(0o700)
    assert is_private(tmp_path / "open" / "r")
    (tmp_path / "link").symlink_to("open")
    assert not is_private(tmp_path / "link" / "r")
    assert not is_private(tmp_path / "nowhere" / "r")


def test_services_take_a_private_folder_and_not_an_earlier_version_s(tmp_path):
    folder = Folder.open(tmp_path / "services")
    early = make_ray_folder()
    early.parent.chmod(0o755)
    folder.state.elsewhere["ray-head"] = str(early)
    found = Path(service_folder(folder, "ray-head"))
    try:
        assert found != early and is_private(found)
        assert Path(service_folder(folder, "ray-head")) == found
    finally:
        for each in (early, found):
            each.rmdir()
            each.parent.rmdir()
