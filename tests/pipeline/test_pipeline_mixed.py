"""Runs of a second whose sampler mixes options: what selects, what orders, and which networks."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from few_draws import few_draws
from manyshot import records, report
from manyshot.report import relaxation
from manyshot.report.reading import RunRecords
from manyshot.run_folder import RunFolder
from pipeline_runs import rank_run, run, small, truth_of_24

pytestmark = pytest.mark.usefixtures("equal_networks_are_measured_once")
MIXES = (
    *("sampler.name=relaxed", "search.name=generator", "search.options={}"),
    *("controls.largest=false", "controls.random=0", "export.formats=[]", "finish.mode=inherit"),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose weights of options learn with the network: its folder, and its recipe."""
    options = "sampler.options={schedule='one_level', lr=0.2, spread=0.5, period=2}"
    recipe = small(*MIXES, options, "search.budgets=['macs<=40%', 'macs<=100%']")
    folder = tmp_path_factory.mktemp("mixed") / "run"
    run(recipe, folder)
    return folder, recipe


def last_weights(folder):
    return records.read_lines(folder / "sampler.jsonl")[-1]["weights"]


def test_a_rank_has_the_order_of_the_weights_of_options(trained):
    """Of `tiny`, in which all decisions matter, it is by products of weights, as on record."""
    folder, recipe = trained
    truth, weights = truth_of_24(), last_weights(folder)
    with few_draws():
        found = rank_run(recipe, folder, truth, uncalibrated=0)
    products = [
        np.prod([of[option] for of, option in zip(weights, arch, strict=True)])
        for arch in truth.archs
    ]
    expected = stats.kendalltau(products, truth.scores_N).statistic
    predictors = found["sets"][0]["predictors"]
    assert predictors["weights of options"]["kendall"]["value"] == pytest.approx(expected)
    assert predictors["weights of options"]["beats_free"] is not None
    assert found["sets"][0]["best_free"] in ("macs", "params")


def test_a_rank_of_a_run_without_such_weights_has_no_such_order(base, tmp_path):
    folder, recipe, _ = base
    with few_draws():
        found = rank_run(recipe, folder, truth_of_24(), uncalibrated=0, out=tmp_path)
    assert "weights of options" not in found["sets"][0]["predictors"]


def test_the_report_says_what_was_selected_and_how(trained):
    folder, _ = trained
    written = RunRecords.read(RunFolder(folder))
    last = written.options[-1]
    *_, whole = relaxation.selected(written, written.result.generated).rows
    assert whole["Selected"] == "the largest weights that fit"
    assert whole["Not of the largest weight"] == "0 of 4 decisions"
    option = int(written.winners[-1].arch.split("-")[0])
    other = tuple(float(i == (option + 1) % 4) for i in range(4))
    moved = last.model_copy(update={"weights": (other, *last.weights[1:])})
    elsewhere = dataclasses.replace(written, options=[moved])
    *_, row = relaxation.selected(elsewhere, written.result.generated).rows
    assert row["Not of the largest weight"] == "1 of 4 decisions"
    page = report.write(folder, folder / "page.html").read_text()
    assert "of every decision the option of the largest weight was taken" in page
    assert "Decoded" not in page


NETWORKS = {
    "macro": "{width=2, layers=[1, 2, 1]}",
    "mbv2_se": "{widths=[8, 8], repeats=[1, 2], strides=[2, 1]}",
}


@pytest.mark.parametrize("estimator", ["softmax", "hard"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_layers_are_searched_by_their_mixture(name, estimator, tmp_path):
    beside = ", others=true" if estimator == "hard" else ""
    recipe = small(
        *MIXES,
        *(f"network.name={name}", f"network.options={NETWORKS[name]}", "data.train_size=64"),
        *("sampler.held_out=16", f"sampler.options={{estimator='{estimator}', lr=0.1{beside}}}"),
        "search.budgets=['macs<=90%']",
    )
    [winner] = run(recipe, tmp_path)["winners"]
    space = records.read_json(RunFolder(tmp_path).space_file)
    assert winner["macs"] <= 0.9 * space["largest"]["macs"]
    weights = [np.array(of) for of in last_weights(tmp_path)]
    assert all(of.sum() == pytest.approx(1, abs=1e-5) for of in weights)
    assert any(np.ptp(of) > 0.02 for of in weights)  # they moved from almost nothing, 0.001
