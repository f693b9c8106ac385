"""What can vary: decisions, sizes, the search space. numpy and the standard library only."""

from manyshot.space.budget import METRICS, Budget
from manyshot.space.decision import (
    Decision,
    Number,
    Option,
    Size,
    choose,
    round_number,
    round_to,
    scope,
    scoped,
)
from manyshot.space.space import Arch, Commutation, SearchSpace, Use

__all__ = [
    "METRICS",
    "Arch",
    "Budget",
    "Commutation",
    "Decision",
    "Number",
    "Option",
    "SearchSpace",
    "Size",
    "Use",
    "choose",
    "round_number",
    "round_to",
    "scope",
    "scoped",
]
