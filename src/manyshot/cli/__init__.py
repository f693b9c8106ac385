"""The command line. Thin: parse, call the library, print what came out."""

from manyshot.cli.main import main

__all__ = ["main"]
