"""Servers for the tests of this folder. Tests elsewhere import the fixtures from tests.services.s3 themselves."""

from tests.services.running import services
from tests.services.s3 import moto_process, moto_s3, s3

__all__ = ["moto_process", "moto_s3", "s3", "services"]
