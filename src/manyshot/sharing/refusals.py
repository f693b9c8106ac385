"""Options of K-shot sharing that would have no effect together, or contradict each other."""

from __future__ import annotations


def check_splittable(copies: int, codes: str, start: str, warm_frac: float | None) -> None:
    """Refuses a split by gradients of what is not one copy that has trained.

    Args:
        copies: K.
        codes: what makes the codes.
        start: what slices begin as.
        warm_frac: the share of the steps in which they are one copy.

    Raises:
        ValueError: then, or if codes would mix what is split.
    """
    if codes != "one_hot":
        raise ValueError(
            f"KShot: split = 'gradients' gives every path one slice, and codes = {codes!r} mixes "
            "slices: take codes = 'one_hot', or leave split out"
        )
    if start != "equal" or not warm_frac or warm_frac >= 1:
        raise ValueError(
            "KShot: split = 'gradients' splits one copy while it trains: give start = 'equal' and "
            f"warm_frac between 0 and 1, got start = {start!r} and warm_frac = {warm_frac}"
        )
    if copies & (copies - 1):
        raise ValueError(
            f"KShot: split = 'gradients' splits in two, again and again: copies must be 2, 4, 8, "
            f"..., got {copies}"
        )


def refuse_one_copy(codes: str, start: str, last_std: float | None) -> None:
    """Refuses options that leave K copies one copy, or codes that are others by name alone.

    Raises:
        ValueError: then.
    """
    if start == "equal" and codes == "uniform":
        raise ValueError(
            "KShot: start = 'equal' with codes = 'uniform' is one copy, in K times the memory: "
            "take copies = 1, or start = 'independent'"
        )
    if last_std == 0 and start == "equal" and codes in ("learnt", "random"):
        raise ValueError(
            "KShot: last_std = 0 with start = 'equal' leaves slices equal and codes uniform for "
            "ever, since neither gets a gradient that tells slices apart: give last_std above 0"
        )
    if last_std == 0 and codes == "random":
        raise ValueError(
            "KShot: last_std = 0 with codes = 'random' makes all codes uniform: take codes = "
            "'uniform', or give last_std above 0"
        )
