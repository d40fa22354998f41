"""everport as it was built for the lab."""

import pathlib

BUILD = pathlib.Path("/build")
BIN = BUILD / "bin"
