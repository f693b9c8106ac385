"""What can vary: decisions, sizes, the search space. numpy and the standard library only."""

from manyshot.space.budget import METRICS, Budget
from manyshot.space.decision import (
    Concat,
    Decision,
    Number,
    Option,
    Size,
    choose,
    concat,
    is_plain_sum,
    round_number,
    round_to,
    scope,
    scoped,
)
from manyshot.space.space import Arch, Commutation, SearchSpace, Use
from manyshot.space.tree import Descent, KeepsTree, VisitTree

__all__ = [
    "METRICS",
    "Arch",
    "Budget",
    "Commutation",
    "Concat",
    "Decision",
    "Descent",
    "KeepsTree",
    "Number",
    "Option",
    "SearchSpace",
    "Size",
    "Use",
    "VisitTree",
    "choose",
    "concat",
    "is_plain_sum",
    "round_number",
    "round_to",
    "scope",
    "scoped",
]
