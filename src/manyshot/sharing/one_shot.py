"""The simplest scheme: one copy of every weight."""

from __future__ import annotations

from typing import final

from manyshot.sharing.scheme import Shares


@final
class OneShot(Shares):
    """Every architecture that uses an operation uses the same tensor (SPOS, arXiv:1904.00420)."""
