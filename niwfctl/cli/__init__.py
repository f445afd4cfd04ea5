"""The command line: parse, call Repository, render."""

import os

# Looking for pydantic plugins takes a tenth of a command's start, and we use none.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
