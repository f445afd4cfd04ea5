"""niwfctl: git for the capabilities of a language model."""

__version__ = "0.1.0"
