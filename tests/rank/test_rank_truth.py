"""Truth tables: of records, of CSV files, and what is refused."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from manyshot import records
from manyshot.rank import PUBLISHED, TruthError, TruthTable, kendall, load_truth
from manyshot.rank.resampling import JudgedSet, mean_over_turns
from manyshot.run_folder import TRUTH_LOG as LOG

NAN = math.nan


def table(accuracy, **kwargs):
    scores_NR = np.array(accuracy, np.float64)
    n, r = scores_NR.shape
    archs = tuple((i, 0) for i in range(n))
    return TruthTable("t", archs, tuple(f"run {i}" for i in range(r)), scores_NR, **kwargs)


class TestTable:
    def test_mean_is_over_the_runs_there_are(self):
        assert table([[0.5, 0.7], [0.9, NAN]]).scores_N.tolist() == pytest.approx([0.6, 0.9])

    def test_equal_means_tie_in_whatever_order_their_runs_were(self):
        """The oracle counts images, whole numbers; floating point splits most of these ties."""
        rng = np.random.default_rng(0)
        right_NR = rng.integers(380, 400, (120, 5))
        scores_NR, proxy_N = right_NR / 449, rng.random(120)
        expected = stats.kendalltau(proxy_N, right_NR.sum(1)).statistic
        assert len(np.unique(scores_NR.mean(1))) > len(np.unique(right_NR.sum(1)))
        assert kendall(proxy_N, table(scores_NR).scores_N) == pytest.approx(expected, abs=1e-12)
        for own in (JudgedSet(scores_NR, {"a": proxy_N}), JudgedSet(-scores_NR, {"a": -proxy_N})):
            assert mean_over_turns(own, "tau", "a") == pytest.approx(expected, abs=1e-12)
        twice = JudgedSet(1e-20 * scores_NR, {"a": right_NR.sum(1).astype(float)})
        assert mean_over_turns(twice, "tau", "a") == pytest.approx(1, abs=1e-12)

    def test_run_sd_pools_by_degrees_of_freedom(self):
        rows = [[0.5, 0.7, NAN], [0.2, 0.3, 0.7], [0.9, NAN, NAN]]
        variances = [np.var([0.5, 0.7], ddof=1), np.var([0.2, 0.3, 0.7], ddof=1)]
        pooled = math.sqrt((variances[0] * 1 + variances[1] * 2) / 3)
        assert table(rows).run_sd == pytest.approx(pooled)
        expected = [pooled / math.sqrt(2), pooled / math.sqrt(3), pooled]
        assert table(rows).errors_N == pytest.approx(expected)

    def test_one_run_has_no_spread(self):
        assert table([[0.5], [0.6]]).run_sd is None
        assert table([[0.5], [0.6]]).errors_N is None

    def test_complete_runs(self):
        assert table([[0.5, 0.7], [0.9, NAN]]).complete.tolist() == [True, False]

    def test_without_a_run_drops_what_has_no_other(self):
        found = table([[0.5, 0.7], [0.9, NAN]], costs={"macs": np.array([1.0, 2])}).without_run(0)
        assert found.archs == ((0, 0),) and found.runs == ("run 1",)
        assert found.scores_NR.tolist() == [[0.7]] and found.costs["macs"].tolist() == [1]

    def test_subset_keeps_the_order_asked_for(self):
        found = table([[0.1], [0.2], [0.3]], costs={"macs": np.array([1.0, 2, 3])}).subset([2, 0])
        assert found.archs == ((2, 0), (0, 0)) and found.scores_N.tolist() == [0.3, 0.1]
        assert found.costs["macs"].tolist() == [3, 1]

    @pytest.mark.parametrize(
        ("accuracy", "message"),
        [
            ([[0.5], [1.5]], "0.5 to 1.5"),
            ([[-0.1]], "shares in"),
            ([[NAN]], "no score of architecture"),
            (np.zeros((0, 1)), "no architecture"),
        ],
    )
    def test_refused(self, accuracy, message):
        with pytest.raises(TruthError, match=message):
            table(accuracy)

    def test_an_architecture_twice_is_refused(self):
        with pytest.raises(TruthError, match="0-1 twice"):
            TruthTable("t", ((0, 1), (0, 1)), ("r",), np.array([[0.1], [0.2]]))

    def test_shapes_must_agree(self):
        with pytest.raises(TruthError, match="shape"):
            TruthTable("t", ((0, 1),), ("r", "s"), np.array([[0.1]]))
        with pytest.raises(TruthError, match="macs"):
            table([[0.1], [0.2]], costs={"macs": np.array([1.0])})


def row(arch, seed, accuracy, **more):
    metric = {"name": "accuracy", "higher_is_better": True, "share": True}
    key = {"schema": 2, "arch": arch, "seed": seed, "metric": metric}
    return {**key, "test_score": accuracy, **more}


def test_even_has_the_runs_that_all_have():
    ragged = table([[0.5, 0.7], [0.9, NAN]])
    assert ragged.even.runs == ("run 0",)
    assert ragged.even.scores_NR.tolist() == [[0.5], [0.9]]
    for same in (table([[0.5, 0.7], [0.9, 0.8]]), table([[0.5, NAN], [NAN, 0.8]])):
        assert same.even is same


def test_digests_tell_tables_apart():
    own = table([[0.5, 0.7], [0.9, NAN]])
    assert own.digest == table([[0.5, 0.7], [0.9, NAN]]).digest
    others = table([[0.5, 0.7], [0.9, 0.8]]), own.subset([1, 0]), table([[0.5], [0.9]])
    assert len({own.digest, *(other.digest for other in others)}) == 4


class TestRecords:
    def write(self, path, *rows):
        records.write_lines(path, rows)
        return path

    def test_ragged_seeds(self, tmp_path):
        rows = row("1-0", 3, 0.5, macs=9), row("0-2", 0, 0.25, macs=7), row("1-0", 0, 0.75, macs=9)
        found = load_truth(self.write(tmp_path / LOG, *rows).parent)
        assert found.archs == ((0, 2), (1, 0)) and found.runs == ("seed 0", "seed 3")
        np.testing.assert_array_equal(found.scores_NR, [[0.25, NAN], [0.75, 0.5]])
        assert found.costs["macs"].tolist() == [7, 9] and list(found.costs) == ["macs"]
        assert found.name == tmp_path.name

    def test_a_file_of_another_name(self, tmp_path):
        path = self.write(tmp_path / "mine.jsonl", row("1-0", 3, 0.5), {"about": "something"})
        assert load_truth(path).name == "mine"

    def test_a_training_twice_is_refused(self, tmp_path):
        path = self.write(tmp_path / LOG, row("1-0", 3, 0.5), row("1-0", 3, 0.6))
        with pytest.raises(TruthError, match="1-0 with seed 3 twice"):
            load_truth(path)

    def test_trainings_of_two_metrics_are_refused(self, tmp_path):
        other = {"name": "R2", "higher_is_better": True, "share": False}
        rows = row("1-0", 3, 0.5), row("1-0", 4, 0.6, metric=other)
        with pytest.raises(TruthError, match="by 'accuracy' and by 'R2'"):
            load_truth(self.write(tmp_path / LOG, *rows))

    def test_by_loss(self, tmp_path):
        rows = row("1-0", 3, 0.5, test_loss=1.25), row("0-1", 3, 0.25, test_loss=0.75)
        path = self.write(tmp_path / "mine.jsonl", *rows)
        by_loss = load_truth(path, by="loss")
        assert by_loss.archs == ((0, 1), (1, 0)) and by_loss.name == "mine-loss"
        np.testing.assert_array_equal(by_loss.scores_NR, [[0.75], [1.25]])
        np.testing.assert_array_equal(by_loss.fitness_N, [-0.75, -1.25])  # the lower, the better
        assert by_loss.digest != load_truth(path).digest
        with pytest.raises(TruthError, match="no test loss of architecture 1-0"):
            load_truth(self.write(tmp_path / "old.jsonl", row("1-0", 3, 0.5)), by="loss")
        with pytest.raises(
            TruthError, match="has no losses: leave --by-loss out .* a folder of manyshot truth"
        ):
            load_truth("nas_bench_macro", by="loss")

    def test_nothing_finished(self, tmp_path):
        with pytest.raises(TruthError, match="manyshot truth"):
            load_truth(tmp_path)
        with pytest.raises(TruthError, match="no finished training"):
            load_truth(self.write(tmp_path / LOG, {"about": "nothing"}))

    def test_a_torn_last_line_is_left_out(self, tmp_path):
        path = self.write(tmp_path / LOG, row("1-0", 3, 0.5))
        with path.open("a") as file:
            file.write(json.dumps(row("1-1", 3, 0.5))[:20])
        assert load_truth(path).archs == ((1, 0),)


class TestCsv:
    def write(self, tmp_path, text):
        path = tmp_path / "own.csv"
        path.write_text(text)
        return path

    def test_runs_shares_percents_and_costs(self, tmp_path):
        text = "arch,accuracy_a,accuracy_percent_b,macs\n0-1,0.5,60,10\n\n1-1,0.25,,20\n"
        found = load_truth(self.write(tmp_path, text))
        assert found.archs == ((0, 1), (1, 1)) and found.runs == (
            "accuracy_a",
            "accuracy_percent_b",
        )
        np.testing.assert_array_equal(found.scores_NR, [[0.5, 0.6], [0.25, NAN]])
        assert found.costs["macs"].tolist() == [10, 20]

    def test_scores_and_errors_are_any_numbers(self, tmp_path):
        """Of errors the lowest ranks highest."""
        scores = load_truth(self.write(tmp_path, "arch,score_a,score_b\n0-1,-3.5,\n1-1,2,40\n"))
        np.testing.assert_array_equal(scores.scores_NR, [[-3.5, NAN], [2, 40]])
        assert scores.fitness_N.tolist() == [-3.5, 21] and not scores.metric.share
        errors = load_truth(self.write(tmp_path, "arch,error\n0-1,1.5\n1-1,0.25\n"))
        assert errors.scores_N.tolist() == [1.5, 0.25]
        assert errors.fitness_N.tolist() == [-1.5, -0.25]
        assert not errors.metric.higher_is_better

    def test_another_encoding(self, tmp_path):
        path = tmp_path / "own.csv"
        path.write_bytes("arch,accuracy\n0,0.5é\n".encode("latin-1"))
        with pytest.raises(TruthError, match=r"own\.csv is no CSV file in UTF-8"):
            load_truth(path)

    def test_a_byte_order_mark_is_no_part_of_a_name(self, tmp_path):
        assert len(load_truth(self.write(tmp_path, "\ufeffarch,accuracy\n0,0.5\n"))) == 1

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "needs the columns arch and accuracy"),
            ("arch,macs\n0-1,3\n", "needs the columns arch and accuracy"),
            ("arch,accuracy,flops\n0-1,0.5,3\n", "flops.*allowed"),
            ("arch,accuracy,accuracy\n0-1,0.5,0.5\n", "once each"),
            ("arch,accuracy,error\n0-1,0.5,0.5\n", "several metrics .accuracy, error."),
            ("arch,accuracy\n", "no architecture below"),
            ("arch,accuracy\n0-1,0.5\n0-2\n", "line 3 has 1 fields"),
            ("arch,accuracy\n0_1,0.5\n", "line 2: architecture '0_1'"),
            ("arch,accuracy\n0-1,high\n", "line 2, accuracy: 'high' is not a finite number"),
            ("arch,accuracy\n0-1,inf\n", "not a finite number"),
            ("arch,accuracy\n0-1,93.1\n", "call a column of percents accuracy_percent"),
            ("arch,accuracy_percent\n0-1,101\n", r"101 is not in \[0, 100\]$"),
            ("arch,accuracy,macs\n0-1,0.5,\n", "line 2, macs: '' is not a finite number"),
            ("arch,accuracy\n0-1,\n", "no score of architecture"),
            ("arch,accuracy\n0-1,0.5\n0-1,0.6\n", "0-1 twice"),
        ],
    )
    def test_malformed(self, tmp_path, text, message):
        with pytest.raises(TruthError, match=message):
            load_truth(self.write(tmp_path, text))


def test_an_unknown_name_lists_the_tables():
    with pytest.raises(TruthError, match="published table .*nas_bench_macro, nas_bench_201,"):
        load_truth("nothing")


def test_a_published_table_by_name():
    assert load_truth("nas_bench_macro") is PUBLISHED["nas_bench_macro"]()
