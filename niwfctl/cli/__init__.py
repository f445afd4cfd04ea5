"""The command line: parse, call Repository, render."""

import os

# Looking for plugins of pydantic takes a tenth of a command's start, and none is of use here.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
