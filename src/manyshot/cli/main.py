"""Running the command line: errors become messages and exit codes."""

from __future__ import annotations

import os
import signal
import sys
import sysconfig
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn

import typer

from manyshot.allocation import hold_freed_memory
from manyshot.cli import ranking as ranking
from manyshot.cli import recipes as recipes
from manyshot.cli import running as running
from manyshot.cli.shared import app

_USAGE: Any = typer.BadParameter.__base__  # of all usage errors; typer does not export it
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL error")
"""What torch says to a process when another one that it trains with has ended."""
_INTERRUPTED = 130  # what typer returns after Ctrl-C


def _fail(message: object, code: int) -> NoReturn:
    if str(message):  # without arguments there is only the help
        typer.echo(f"error: {message}", err=True)
    sys.exit(code)


def _place(error: BaseException) -> str:
    """Where in somebody else's code an error comes from, such as a network's own forward."""
    while error.__cause__ is not None:
        error = error.__cause__
    elsewhere = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "<")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).is_relative_to(Path(__file__).parents[1]):
            return ""
        if not frame.filename.startswith(elsewhere):
            name = type(error).__name__
            return f" ({name} in {frame.filename}, line {frame.lineno}, {frame.name})"
    return ""


def _words(error: Exception) -> str:
    """One line about an error, or its own lines if it was raised with words for people."""
    text = f"{error}{_place(error)}"
    if isinstance(error, RuntimeError) and any(sign in text for sign in _LOST):
        from manyshot.writing import processes  # slow to import, so not for --help

        if processes() > 1:
            return (
                f"another of the {processes()} processes has ended, and so does this one: see what "
                f"that one said, and go on with the same command ({text})"
            )
    if isinstance(error, ValueError | OSError | RuntimeError | LookupError | ImportError):
        return text
    return f"{type(error).__name__}: {text} (MANYSHOT_DEBUG=1 shows where)"


def _warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """A warning for people, who have no use for the line of source that it comes from."""
    return f"warning: {message}\n"


def _terminate(signum: int, frame: object) -> NoReturn:
    """What a scheduler's SIGTERM does is what Ctrl-C does."""
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command line: exit 0 done, 1 failed, 2 usage."""
    if arguments is None:  # the process is ours alone
        hold_freed_memory()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    formatted, warnings.formatwarning = warnings.formatwarning, _warning
    try:
        code = app(args=arguments, standalone_mode=False)
    except _USAGE as error:
        _fail(error.format_message(), 2)
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except Exception as error:
        if os.environ.get("MANYSHOT_DEBUG"):
            raise
        from manyshot.recipe import RecipeError  # slow to import, so not for --help

        _fail(_words(error), 2 if isinstance(error, RecipeError) else 1)
    finally:
        warnings.formatwarning = formatted
    if code == _INTERRUPTED:
        from manyshot.run_folder import RunFolder
        from manyshot.writing import interrupted

        folder = interrupted()
        again = "the same command"
        if folder is not None and RunFolder(folder).recipe_file.exists():
            again = f"manyshot run --resume {folder} or, if it was truth or rank, with {again}"
        _fail(f"interrupted; go on with {again}", 1)
    sys.exit(code or 0)
