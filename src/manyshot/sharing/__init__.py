"""Which weights a path gets."""

from manyshot.sharing.one_shot import OneShot, Sharing

__all__ = ["OneShot", "Sharing"]
