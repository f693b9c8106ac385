"""What a dry run says against what the run then does."""

import json
from pathlib import Path

import numpy as np
import pytest

import manyshot as ms
from manyshot.pipeline import preview
from pipeline_runs import run, small


def test_a_run_does_what_its_dry_run_said(tmp_path):
    recipe, folder = small("export.formats=['json']"), tmp_path / "run"
    told = preview(recipe, folder)
    assert list(tmp_path.iterdir()) == [] and told["problems"] == []
    result = run(recipe, folder)
    written = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    files = {one["file"] for one in told["files"]} - {"report.html"}  # of `ms.run`
    [subnets] = [name for name in files if "ARCH" in name]
    assert subnets == "subnets/ARCH.{json,safetensors}"
    for winner in result["winners"]:
        files |= {f"subnets/{winner['arch']}.{kind}" for kind in ("json", "safetensors")}
    assert files - {subnets} <= written
    images = json.loads((folder / "space.json").read_text())["images"]
    assert told["data"]["counts"] == images["class_counts"]
    assert told["data"]["images"] == {"train": 128, "validation": 64, "test": 449}
    assert "1 epoch of 4 steps of 32." in told["steps"][0]
    assert told["seconds"].keys() == {"training", "search", "finishing"}
    assert min(told["seconds"].values()) > 0


def test_networks_within_a_budget_are_counted():
    told = preview(
        small("search.budgets=['macs<=40%', 'macs<=60% and params<=50%']"), Path("nowhere")
    )
    net = ms.Supernet(ms.zoo.tiny(width=3), input_shape=(1, 8, 8))
    archs = list(net.space.enumerate())
    macs, params = ms.cost.macs(net, archs), ms.cost.params(net, archs)
    largest = archs.index(net.space.largest)
    one = macs <= 0.4 * macs[largest]
    both = (macs <= 0.6 * macs[largest]) & (params <= 0.5 * params[largest])
    assert [b["networks"] for b in told["budgets"]] == [np.sum(one), np.sum(both)]
    assert told["budgets"][0]["limits"]["macs"] == pytest.approx(0.4 * macs[largest])
    assert told["network"]["costs"]["macs"] == [macs.min(), macs.max()]
    assert 0 < np.sum(both) < len(archs)


def test_in_a_large_space_a_share_is_drawn(monkeypatch):
    monkeypatch.setattr("manyshot.pipeline.verbs.preview.LISTED", 10)
    [budget] = preview(small("search.budgets=['macs<=50%']"), Path("nowhere"))["budgets"]
    net = ms.Supernet(ms.zoo.tiny(width=3), input_shape=(1, 8, 8))
    archs = list(net.space.enumerate())
    macs = ms.cost.macs(net, archs)
    share = np.mean(macs <= macs.max() / 2)
    assert budget["networks"] is None and not budget["exact"]
    assert budget["share"] == pytest.approx(share, abs=5 * np.sqrt(0.25 / 4096))


def test_latency_is_not_measured():
    told = preview(small("search.budgets=['latency_ms<=1e-9']"), Path("nowhere"))
    [budget] = told["budgets"]
    assert budget["share"] is None and budget["problem"] == ""
    assert "Latency is measured" in told["steps"][0]
    assert "latency.json" in [one["file"] for one in told["files"]]


def test_parameters_that_one_process_cannot_share_out_are_a_problem():
    [problem] = preview(small("train.shard=true"), Path("nowhere"))["problems"]
    assert problem.startswith("train: shard = true, and there is one process: start several")


def test_minutes_become_epochs():
    told = preview(small("train.epochs=9", "train.minutes=1e-6"), Path("nowhere"), whole=False)
    assert "1 epoch of 4 steps" in told["steps"][0]
    assert told["budgets"] == [] and told["seconds"].keys() == {"training"}
