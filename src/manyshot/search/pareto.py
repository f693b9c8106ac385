"""Pareto fronts. N points, D objectives, all to be minimised."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def _checked(points_ND: npt.ArrayLike) -> npt.NDArray[np.float64]:
    points = np.asarray(points_ND, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] == 0 or np.isnan(points).any():
        raise ValueError(
            f"points must have shape (N, D) with D >= 1 and no nan, got shape {points.shape} "
            f"with {np.count_nonzero(np.isnan(points))} nan"
        )
    return points


def non_dominated(points_ND: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which points no other point dominates, (N,); flip the signs of what is maximised.

    A point dominates another if it is nowhere larger and somewhere smaller, so equal points do not
    dominate each other and duplicates are all kept. pymoo sorts them.

    Raises:
        ValueError: for another shape than (N, D), or a nan.
    """
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting  # slow to import

    points = _checked(points_ND)
    front_N = np.zeros(len(points), dtype=np.bool_)
    if len(points):
        front_N[NonDominatedSorting().do(points, only_non_dominated_front=True)] = True
    return front_N


def fronts(points_ND: npt.ArrayLike, least: int) -> list[npt.NDArray[np.intp]]:
    """The first fronts, as many as it takes to hold `least` points, each in ascending order.

    The first is that of `non_dominated`, each further one that of what the earlier ones leave.
    pymoo sorts them.
    """
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting  # slow to import

    return list(NonDominatedSorting().do(_checked(points_ND), n_stop_if_ranked=least))


def rank_and_crowding(
    points_ND: npt.ArrayLike, n: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Front number (0 is best) and crowding distance within the front of each point, (N,) both.

    Sorting stops once `n` points are in a front; the others share the number after the last one.

    Reference: Deb et al. 2002, "A fast and elitist multiobjective genetic algorithm: NSGA-II",
    sections III-A and III-B; computed by pymoo.
    """
    from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance

    points, first = _checked(points_ND), fronts(points_ND, n)
    rank_N = np.full(len(points), len(first), dtype=np.intp)
    crowding_N = np.zeros(len(points))
    for number, front in enumerate(first):
        rank_N[front] = number
        # With one or two points every one is at an end.
        crowding_N[front] = calc_crowding_distance(points[front]) if len(front) > 2 else np.inf
    return rank_N, crowding_N
