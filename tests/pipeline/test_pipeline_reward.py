"""A reward in a run: told to the searcher, on record, what winners are chosen by; and in `find`."""

import shutil

import pytest

import manyshot as ms
from kills import left_by_kills, one_of_every_kind
from manyshot.pipeline import Workspace
from manyshot.pipeline.beforehand import check
from manyshot.pipeline.identity import fingerprint
from manyshot.recipe import Recipe, RecipeError
from manyshot.run_folder import RunFolder
from manyshot.search import Reward
from pipeline_runs import SHIFT, lines, outcome, run, small

STRONG = 'search.reward={target = "macs<=20%", below = -4, above = -3}'
"""So that another network wins than by the score."""


def expected(line: dict, largest: float) -> float:
    """The formula, written out."""
    share = line["macs"] / (0.2 * largest)
    return line["proxy_score"] * share ** (-4 if share <= 1 else -3)


@pytest.fixture(scope="module")
def rewarded(base, tmp_path_factory):
    """A finished run with the supernet of another, which tests only read."""
    folder = tmp_path_factory.mktemp("rewarded")
    recipe = small(
        STRONG,
        'search.budgets=["macs<=50%", "macs<=100%"]',
        *("search.candidates=24", "search.generation=12", 'finish.mode="inherit"'),
        "search.options={population = 12, parents = 2, mutants = 6, crossovers = 4}",
    )
    return folder, recipe, run(recipe, folder, trained=base[0])


def test_records_hold_scores_and_rewards_and_winners_have_the_highest(base, rewarded):
    folder, recipe, result = rewarded
    ws = Workspace.build(recipe)
    largest = ws.costs["macs"]([ws.net.space.largest])[0]
    scored = lines(folder, "search.jsonl")
    assert len(scored) == 24
    for line in scored:
        assert line["reward"] == pytest.approx(expected(line, largest), rel=1e-12)
    by_score = []
    for winner, share in zip(result["winners"], (0.5, 1.0), strict=True):
        within = [line for line in scored if line["macs"] <= share * largest]
        [own] = [line for line in within if line["arch"] == winner["arch"]]
        assert winner["reward"] == own["reward"] == max(line["reward"] for line in within)
        assert winner["proxy_score"] == own["proxy_score"]
        by_score.append(max(line["proxy_score"] for line in within))
    assert by_score != [winner["proxy_score"] for winner in result["winners"]]
    plain = lines(base[0], "search.jsonl")
    assert all("reward" not in line or line["reward"] is None for line in plain)
    page = ms.Run(folder).report().read_text()
    assert "of a score and a cost" in page and "chosen by a reward" in page


def test_the_searcher_is_told_rewards(rewarded):
    """A searcher that is told the records' rewards proposes what is on record."""
    folder, recipe, _ = rewarded
    ws, scored = Workspace.build(recipe), lines(folder, "search.jsonl")
    told, scores_alone = (ws.searcher(ws.limits()) for _ in range(2))
    assert [ws.net.space.to_text(a) for a in told.ask(12)] == [s["arch"] for s in scored[:12]]
    archs = [ws.net.space.from_text(line["arch"]) for line in scored]
    told.tell(archs[:12], [line["reward"] for line in scored[:12]])
    assert told.ask(12) == archs[12:]
    scores_alone.tell(archs[:12], [line["proxy_score"] for line in scored[:12]])
    assert scores_alone.elites() != told.elites()


@pytest.mark.usefixtures("built_once")
def test_killed_and_resumed_it_ends_the_same(tmp_path):
    recipe = small(STRONG, "search.candidates=5", 'finish.mode="inherit"', "export.formats=[]")
    left = left_by_kills(tmp_path / "whole", lambda: run(recipe, tmp_path / "whole"))
    whole = outcome(tmp_path / "whole")
    for name, folder in one_of_every_kind([(n, f) for n, f in left if n == "search.jsonl"]):
        run(recipe, folder)
        assert outcome(folder) == whole, name
        shutil.rmtree(folder)


def test_a_shifting_search_goes_by_rewards_too(tmp_path):
    """Final scores decide, at the final weights; a searcher other than the default one."""
    less = ("search.candidates=4", "search.generation=2", 'finish.mode="inherit"')
    recipe = small(*SHIFT, *less, STRONG, "search.name=random", "search.options={}")
    result = run(recipe, tmp_path)
    final = [line for line in lines(tmp_path, "search.jsonl") if line["role"] == "final"]
    assert final and all(line["reward"] is not None for line in final)
    best = max(final, key=lambda line: line["reward"])
    assert result["winners"][-1]["arch"] == best["arch"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluate.fitness=loss"], "search.reward multiplies .*evaluate.fitness = 'loss'"),
        (
            ["task=tests.tasks.test_tasks_runs:Opposed"],
            "search.reward multiplies .*of task = 'tests",
        ),
        (['search.reward={target = "macs<=1"}'], "search.reward: budget 'macs<=1' .*impossible"),
        (
            ['search.reward={target = "macs"}'],
            "search.reward.target = 'macs': budget 'macs' is not",
        ),
        (['search.reward={target = "mcas<=1M"}'], "search.reward.target: .*did you mean 'macs'"),
        (['search.reward={target = "macs<=9%", above = 1}'], "search.reward.above = 1"),
        (['search.reward={target = "macs<=9%", below = 0.0, above = 0.0}'], "search.reward: below"),
        (["search.reward={above = -1.0}"], "exponents of a cost: give its target too"),
        (['search.reward={targt = "macs<=9%"}'], "did you mean 'search.reward.target'"),
    ],
)
def test_what_has_no_meaning_is_refused_before_anything_is_trained(overrides, message, tmp_path):
    with pytest.raises((RecipeError, ValueError), match=message):
        run(small(STRONG, *overrides), tmp_path)
    assert not RunFolder(tmp_path).has_begun


def test_a_reward_on_latency_has_latency_measured():
    recipe = small('search.reward={target = "latency_ms<=2"}')
    ws = Workspace.build(recipe)
    check(ws)
    assert ws.recipe.search.reward.target == "latency_ms<=2"
    from manyshot.pipeline.stages.latency import needs_latency

    assert needs_latency(ws) and not needs_latency(Workspace.build(small()))


def test_without_a_reward_a_search_is_identified_as_before():
    plain, rewarded = Workspace.build(small()), Workspace.build(small(STRONG))
    settings = plain.recipe.train
    before = str(plain.recipe.search).replace(f"reward={plain.recipe.search.reward!r} ", "")
    assert "reward" not in before
    now = fingerprint(plain, settings, plain.recipe.search)
    assert now == fingerprint(plain, settings, before)
    assert now != fingerprint(rewarded, settings, rewarded.recipe.search)
    assert Recipe.build({}, [], "x").search.reward.target is None


def test_without_compiling_a_training_is_identified_as_before():
    ws = Workspace.build(small())
    train, compiles = ws.recipe.train, ws.recipe.train.model_copy(update={"compile": True})
    before = str(train).replace("compile=False ", "").replace(" compile=False", "")
    off = {"sgld=0.0 ", f" snapshots={train.snapshots!r}"}
    for text in off:
        before = before.replace(text, "")
    assert fingerprint(ws, train, train) == fingerprint(ws, train, before)
    assert fingerprint(ws, train, train) != fingerprint(ws, train, compiles)


class TestFind:
    def net(self):
        return ms.Supernet(ms.zoo.tiny(width=3), input_shape=(1, 8, 8))

    def test_winners_are_by_the_reward_and_scores_are_kept(self):
        net = self.net()
        reward = Reward("macs<=40%", below=0.0, above=-2.0)
        searched = ms.find(
            net, budgets=["params<=100%"], score=lambda arch: 1.0 + sum(arch), reward=reward,
            searcher="random", candidates=256,
        )  # fmt: skip
        [winner] = searched.winners
        archs = [arch for arch, _ in searched.history]
        macs = dict(zip(archs, ms.cost.macs(net, archs), strict=True))
        target = 0.4 * ms.cost.macs(net, [net.space.largest])[0]
        rewards = {arch: (1.0 + sum(arch)) * min(1.0, (macs[arch] / target) ** -2) for arch in macs}
        assert winner.reward == pytest.approx(max(rewards.values()))
        assert winner.reward == pytest.approx(rewards[winner.arch])
        assert winner.score == 1.0 + sum(winner.arch) < max(s for _, s in searched.history)
        assert all(score == 1.0 + sum(arch) for arch, score in searched.history)

    def test_searchers_are_told_rewards(self):
        """Evolution under a reward is evolution on the function that multiplies it out."""
        net, reward = self.net(), Reward("macs<=40%", below=-1.0, above=-2.0)
        limit = reward.limit({"macs": ms.cost.macs_table(net)}, net.space.largest)
        asked = {"budgets": ["macs<=90%"], "candidates": 150, "generation": 50}

        def by_hand(arch):
            share = limit.costs([arch])[0] / limit.limit
            return (1.0 + sum(arch)) * share ** (-1.0 if share <= 1 else -2.0)

        one = ms.find(net, score=lambda arch: 1.0 + sum(arch), reward=reward, **asked)
        two = ms.find(net, score=by_hand, **asked)
        assert [arch for arch, _ in one.history] == [arch for arch, _ in two.history]
        assert one.winners[0].reward == pytest.approx(two.winners[0].score)
        assert two.winners[0].reward is None

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"fitness": "loss"}, "a reward multiplies scores of at least 0"),
            ({"score": lambda arch: -1.0}, "has score -1, and a reward multiplies"),
            ({"reward": Reward("macs<=1")}, "'macs<=1' .*is impossible"),
            ({"reward": Reward("latency_ms<=1")}, "no costs for latency_ms"),
        ],
    )
    def test_what_has_no_meaning_is_said(self, arguments, message):
        usual = {"budgets": ["macs<=90%"], "score": sum, "reward": Reward("macs<=50%")}
        with pytest.raises(ValueError, match=message):
            ms.find(self.net(), **{**usual, **arguments})
