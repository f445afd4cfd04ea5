"""The command line: parse, call Repository, render."""
