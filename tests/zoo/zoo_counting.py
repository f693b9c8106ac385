"""Counting networks of spaces that are too large to list."""

import math

import manyshot as ms


def distinct_networks(space: ms.SearchSpace) -> int:
    """Encodings that differ in an active decision, where only depths deactivate decisions.

    Per depth, the sum over its options of the combinations of what is then active.
    """
    gates = {}
    for decision in space.decisions:
        over = {d for use in space.uses.get(decision, ()) for d, _ in use}
        assert all(str(d.name).endswith("depth") for d in over)
        assert len(over) <= 1
        gates[decision] = next(iter(over), None)
    total = 1
    for decision in space.decisions:
        gated = [d for d in space.decisions if gates[d] is decision]
        if gates[decision] is None:
            total *= sum(
                math.prod(len(d.options) for d in gated if _active(space, d, decision, option))
                for option in range(len(decision.options))
            )
    return total


def _active(space: ms.SearchSpace, gated: ms.space.Decision, gate: object, option: int) -> bool:
    arch = [option if d is gate else 0 for d in space.decisions]
    return space.active(tuple(arch))[space.decisions.index(gated)]
