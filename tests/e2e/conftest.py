import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import pytest

from lib.guest import make_guest
from lib.stage import build_dir


@pytest.fixture(scope="session")
def guest_files():
    return make_guest(build_dir() / "guest_tools")


@pytest.fixture(scope="session")
def sriov_guest_files():
    return make_guest(build_dir() / "guest_tools", "--sriov")


@pytest.fixture(scope="session")
def libvirt_guest_files():
    return make_guest(build_dir() / "guest_tools", "--libvirt")
