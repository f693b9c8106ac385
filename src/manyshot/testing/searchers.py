"""The contract of a searcher, as tests to inherit."""

from __future__ import annotations

import random  # noqa: TID251 - only to check that nobody else uses it
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from manyshot.search import Infeasible, Limit, Searcher
from manyshot.space import Arch, Commutation, Decision, SearchSpace, Use


class SearcherSuite:
    """Checks that every searcher must pass; for pytest.

    Subclass it in a test module, under a name that starts with `Test`, and say how to make yours:

        class TestMine(SearcherSuite):
            def make_searcher(self, space, seed, limits):
                return MySearcher(space, seed=seed, limits=limits)

    Attributes:
        dedupes_globally: whether the searcher never proposes an architecture told before. Set it
            to False if it may; it then need not stop when the space is exhausted either.
    """

    dedupes_globally = True

    def make_searcher(self, space: SearchSpace, seed: int, limits: Sequence[Limit]) -> Searcher:
        """A new searcher; its initial population, if any, should be at most 50."""
        raise NotImplementedError("say how to make your searcher: override make_searcher")

    # -- proposals -------------------------------------------------------------------------

    def test_is_a_searcher(self) -> None:
        """It has the three methods."""
        assert isinstance(self.make_searcher(nested_space(), 0, [weight_limit(9)]), Searcher)

    def test_proposals_are_legal_canonical_and_unique(self) -> None:
        """Proposals of several sizes are such, through the first population and well beyond."""
        space = nested_space()
        searcher = self.make_searcher(space, 0, [weight_limit(12)])
        for archs in proposals(searcher, (30, 30, 1, 7, 30)):
            assert archs, "nothing was proposed though the space is far from exhausted"
            assert len(set(archs)) == len(archs), f"an architecture repeats in {archs}"
            for arch in archs:
                assert space.canonical(arch) == arch, f"{arch} is not canonical"

    def test_full_proposals_while_there_is_enough(self) -> None:
        """`ask(n)` gives n while far more than n remain."""
        searcher = self.make_searcher(nested_space(), 0, [weight_limit(12)])
        sizes = (30, 30, 1, 7, 30)
        assert [len(archs) for archs in run(searcher, sizes)] == list(sizes)

    def test_proposals_are_within_the_limit(self) -> None:
        """Every proposal is within it, through the first population and well beyond."""
        limit = weight_limit(8)
        searcher = self.make_searcher(nested_space(), 1, [limit])
        for archs in run(searcher, (25, 25, 10, 25)):
            assert limit.satisfied(archs).all(), f"over {limit.name}: {archs}"

    def test_every_limit_has_its_share(self) -> None:
        """Of two limits at least every second proposal is within each, of three every third."""
        limits = [weight_limit(7), weight_limit(10), weight_limit(13)]
        searcher = self.make_searcher(nested_space(), 2, limits)
        for archs in run(searcher, (24, 24, 12, 24)):
            for limit in limits:
                share = np.count_nonzero(limit.satisfied(archs))
                least = len(archs) // len(limits)
                assert share >= least, f"{share} of {len(archs)} within {limit.name}, not {least}"
            assert np.any([x.satisfied(archs) for x in limits], axis=0).all()

    def test_large_spaces_are_searched_too(self) -> None:
        """Where a space cannot be listed, proposals are legal, canonical, distinct and replayed."""
        space, limits = nested_space(more=8), [weight_limit(14), weight_limit(20)]
        searcher, replayed = (self.make_searcher(space, 8, limits) for _ in range(2))
        for archs in proposals(searcher, (25, 25, 10)):
            assert len(set(archs)) == len(archs) > 0
            assert limits[1].satisfied(archs).all(), f"over {limits[1].name}: {archs}"
            assert [space.canonical(arch) for arch in archs] == archs, "not canonical"
            replayed.tell(archs, score(archs))
        assert replayed.ask(10) == searcher.ask(10)

    def test_views_are_searched_too(self) -> None:
        """Where a space was narrowed, it proposes nothing else, full and within the limit."""
        space, limit = nested_space(more=4), weight_limit(20)
        middle = {d: range(len(d.options))[-2:] for d in space.decisions if len(d.options) > 1}
        for view in (space.restricted(middle), space.restricted({space.decisions[1]: [1]})):
            searcher = self.make_searcher(view, 11, [limit])
            for archs in proposals(searcher, (10, 10, 5)):
                assert archs, "nothing was proposed though the view is far from exhausted"
                assert all(arch in view and view.canonical(arch) == arch for arch in archs)
                assert limit.satisfied(archs).all(), f"over {limit.name}: {archs}"

    def test_equal_scores_are_scores(self) -> None:
        """When every score is the same, proposals are full and within the limit."""
        limit = weight_limit(9)
        searcher = self.make_searcher(nested_space(), 9, [limit])
        for _ in range(4):
            archs = searcher.ask(25)
            assert len(archs) == 25 and limit.satisfied(archs).all()
            searcher.tell(archs, [0.5] * 25)

    def test_two_proposals_before_a_tell_have_nothing_in_common(self) -> None:
        """Two machines may score at once: at first, and after something was told."""
        searcher = self.make_searcher(nested_space(), 10, [weight_limit(12)])
        for _ in range(3):
            one, two = searcher.ask(25), searcher.ask(25)
            assert not set(one) & set(two), "an architecture was proposed twice before a tell"
            searcher.tell(one + two, score(one + two))

    def test_no_network_is_evaluated_twice(self) -> None:
        """Globally deduplicated searchers visit the whole space once, then propose nothing."""
        if not self.dedupes_globally:
            return
        space, limit = nested_space(), weight_limit(6)
        networks = {space.canonical(arch) for arch in space.enumerate()}
        legal = {arch for arch in networks if limit.satisfied([arch])[0]}
        searcher = self.make_searcher(space, 3, [limit])
        seen: list[Arch] = []
        for archs in run(searcher, [25] * (len(legal) // 25 + 2)):
            seen += archs
        assert len(seen) == len(set(seen)), "a network was proposed twice"
        assert set(seen) == legal, f"{len(legal) - len(set(seen))} legal networks never came"
        assert searcher.ask(5) == [], "something was proposed though nothing is left"

    def test_infeasible_names_the_limit(self) -> None:
        """An impossible limit raises, and says which limit and how many attempts."""
        searcher = self.make_searcher(nested_space(), 0, [weight_limit(-1)])
        try:
            archs = searcher.ask(2)
        except Infeasible as error:
            message = str(error)
        else:
            raise AssertionError(f"no error; proposed {archs} for an impossible limit")
        assert "weight<=-1" in message, f"the limit is not named: {message}"
        assert any(c.isdigit() for c in message.replace("weight<=-1", "")), (
            f"the number of attempts is not given: {message}"
        )

    # -- history ---------------------------------------------------------------------------

    def test_same_seed_same_history(self) -> None:
        """The same seed gives the same history, and another seed another."""
        limits = [weight_limit(12)]
        runs = [
            run(self.make_searcher(nested_space(), seed, limits), (20, 20, 20, 20, 5))
            for seed in (4, 4, 5)
        ]
        assert runs[0] == runs[1], "the same seed gave another history"
        assert runs[0] != runs[2], "another seed gave the same history"

    def test_replay_equals_uninterrupted(self) -> None:
        """A searcher made anew and told the same groups goes on as if never interrupted."""
        limits, space = [weight_limit(9), weight_limit(12)], nested_space()
        for groups in range(1, 6):
            searcher = self.make_searcher(space, 6, limits)
            done = run(searcher, (20,) * groups)
            replayed = self.make_searcher(space, 6, limits)
            for archs in done:
                replayed.tell(archs, score(archs))
            assert replayed.elites() == searcher.elites()
            assert replayed.ask(15) == searcher.ask(15), f"differs after {groups} groups"
            assert replayed.ask(15) == searcher.ask(15), "a second ask before a tell differs"

    def test_proposals_not_told_are_forgotten(self) -> None:
        """A searcher that proposed more than was told goes on as one that was told the same."""
        limits, space = [weight_limit(12)], nested_space()
        searcher, replayed = (self.make_searcher(space, 11, limits) for _ in range(2))
        for _ in range(3):
            archs = searcher.ask(40)[:25]
            for each in (searcher, replayed):
                each.tell(archs, score(archs))
        assert replayed.ask(20) == searcher.ask(20), "proposals not told were remembered"

    def test_what_was_not_proposed_may_be_told(self) -> None:
        """Architectures of other origin, some over the limit: the best within it is an elite."""
        space, limit = nested_space(), weight_limit(9)
        searcher = self.make_searcher(space, 12, [limit])
        others = list(dict.fromkeys(space.canonical(a) for a in space.enumerate()))[::31]
        legal = [arch for arch in others if limit.satisfied([arch])[0]]
        assert 0 < len(legal) < len(others)
        searcher.tell(others, [100.0 + i for i in range(len(others))])
        assert legal[-1] in searcher.elites()
        archs = searcher.ask(25)
        assert limit.satisfied(archs).all(), f"over {limit.name}: {archs}"
        assert not (self.dedupes_globally and set(archs) & set(others)), "told, yet proposed"

    def test_elites_were_told(self) -> None:
        """There are no elites at first; later they are distinct architectures that were told."""
        searcher = self.make_searcher(nested_space(), 0, [weight_limit(12)])
        assert searcher.elites() == []
        told = {arch for archs in run(searcher, (20, 20)) for arch in archs}
        elites = searcher.elites()
        assert elites and len(set(elites)) == len(elites) and set(elites) <= told

    def test_a_later_tell_replaces_the_score(self) -> None:
        """It is as if only the later score had ever been told; the newest, if best, is an elite."""
        space, limits = nested_space(), [weight_limit(12)]
        for new in (100.0, -100.0):
            changed = self.make_searcher(space, 7, limits)
            (archs,) = run(changed, (40,))
            changed.tell(archs[-1:], [new])
            told_once = self.make_searcher(space, 7, limits)
            told_once.tell(archs, [*score(archs[:-1]), new])
            assert changed.elites() == told_once.elites()
            assert new < 0 or archs[-1] in changed.elites()

    def test_global_random_state_is_untouched(self) -> None:
        """The random streams of the standard library and of numpy are neither used nor changed."""
        limits, sizes = [weight_limit(12)], (25, 25, 25)
        run(self.make_searcher(nested_space(), 0, limits), sizes)  # imports may draw, once
        histories = []
        for seed in (1, 2):
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            before = global_states()
            histories.append(run(self.make_searcher(nested_space(), 0, limits), sizes))
            assert global_states() == before, "a global random state was changed"
        assert histories[0] == histories[1], "a global random state was used"


def nested_space(more: int = 0) -> SearchSpace:
    """The suite's space: 2,916 encodings; some decisions inactive at times, two that commute.

    Args:
        more: decisions between four options beside, each of which has four times the encodings.
    """
    depth = Decision((1, 2, 3), "depth")
    ops = [Decision(("skip", "conv", "pool"), f"op{i}") for i in range(3)]
    kernels = [Decision((3, 5), f"kernel{i}") for i in range(2)]
    tails = [Decision(("skip", "conv", "pool"), f"tail{i}") for i in range(2)]
    uses: dict[Decision, list[Use]] = {}
    for i, op in enumerate(ops):
        uses[op] = [((depth, frozenset(range(i, 3))),)]
    for i, kernel in enumerate(kernels):
        uses[kernel] = [((depth, frozenset(range(i, 3))), (ops[i], frozenset({1})))]
    widths = [Decision((1, 2, 3, 4), f"width{i}") for i in range(more)]
    decisions = [depth, *ops, *kernels, *tails, *widths]
    return SearchSpace(decisions, uses=uses, commutations=[Commutation(tuple(tails), 0)])


def weight(archs: Sequence[Arch]) -> npt.NDArray[np.float64]:
    """The suite's cost: the sum of the option indices."""
    return np.array([sum(arch) for arch in archs], dtype=np.float64)


def weight_limit(limit: int) -> Limit:
    """The limit `weight<=limit` on the cost of the suite."""
    return Limit(f"weight<={limit}", weight, limit)


def score(archs: Sequence[Arch]) -> list[float]:
    """The suite's score: additive, with ties, and at odds with the cost."""
    return [float(sum((i * option) % 5 for i, option in enumerate(arch, 1))) for arch in archs]


def proposals(searcher: Searcher, sizes: Sequence[int]) -> Iterator[list[Arch]]:
    """Yields proposals of these sizes; tells the scores of one before it asks for the next."""
    for n in sizes:
        archs = searcher.ask(n)
        yield archs
        searcher.tell(archs, score(archs))


def run(searcher: Searcher, sizes: Sequence[int]) -> list[list[Arch]]:
    """All proposals of these sizes; the scores of all are told."""
    return list(proposals(searcher, sizes))


def global_states() -> tuple[Any, ...]:
    """The states of the global random streams of the standard library and of numpy."""
    state: Any = np.random.get_state()  # noqa: NPY002
    return (random.getstate(), state[0], state[1].tolist(), *state[2:])
