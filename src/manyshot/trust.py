"""Whose code a run's folder may run.

A recipe may name anybody's code (`network.name = "package.module:attribute"`). To start a run by
such a recipe is to run that code, as with any script. A run's folder is different: it is passed
around as data. So the command that writes a folder signs its recipe with a key that only this user
has, and a folder that is not signed by it runs no code that its recipe names unless the user says
that it is to be trusted.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path

from manyshot import records
from manyshot.recipe import RecipeError
from manyshot.run_folder import RunFolder


def key_file() -> Path:
    """Where this user's key is kept: `manyshot/key` in `XDG_STATE_HOME`, or `~/.local/state`."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "manyshot" / "key"


def sign(folder: RunFolder) -> None:
    """Notes in a run's folder that this user's command wrote its recipe.

    Without a place for a key nothing is written; then the folder has to be trusted explicitly, if
    its recipe names code.
    """
    path = key_file()
    if not path.exists():
        try:
            _make_key(path)
        except OSError:
            return  # a home that cannot be written to
    records.write_text(folder.signature_file, _signature(path.read_bytes(), folder))


def _make_key(path: Path) -> None:
    """Writes a new key, whole and readable by this user alone, unless another command was faster.

    Raises:
        OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)  # readable by this user alone
    try:
        with open(handle, "wb") as file:
            file.write(secrets.token_bytes(32))
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
    finally:
        os.unlink(name)


def check_trusted(folder: RunFolder, *, trust: bool = False) -> None:
    """Refuses a run's folder that would run code which its recipe names, if somebody else wrote it.

    Args:
        folder: the folder of a run.
        trust: whether the user says that it may.

    Raises:
        RecordError: if there is no recipe.
        RecipeError: if the recipe is damaged, or names code and is not signed by this user.
    """
    code = folder.recipe().named_code
    if not code or trust or _is_signed(folder):
        return
    names = ", ".join(f"{key} = {name!r}" for key, name in code.items())
    raise RecipeError(
        f"{folder.path} was not written by a command of yours, at least not there, and its recipe "
        f"names code that would be run: {names}; look at it, and say --trust (in Python "
        "trust=True) to run it"
    )


def _is_signed(folder: RunFolder) -> bool:
    try:
        key, kept = key_file().read_bytes(), folder.signature_file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return False
    return hmac.compare_digest(kept, _signature(key, folder))


def _signature(key: bytes, folder: RunFolder) -> str:
    """Of the recipe and its place: beside a copy there may be other code of the same name."""
    content = str(folder.path.resolve()).encode() + b"\0" + folder.recipe_file.read_bytes()
    return hmac.new(key, content, hashlib.sha256).hexdigest()
