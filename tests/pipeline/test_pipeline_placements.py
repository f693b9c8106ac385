"""Runs under schemes that place channels, and with stand-ins: refusals, counts, deliveries."""

import pytest
import torch

import manyshot as ms
from manyshot.pipeline import Workspace
from manyshot.pipeline.beforehand import check
from pipeline_runs import lines, run, small

CONVNET = ("network.name=convnet", "network.options={width=8,depth=1}", "data.pad=1")
MACRO = (
    *("network.name=macro", "network.options={width=2,layers=[2],linear_skips=true}"),
    "search.budgets=['macs<=60%', 'macs<=90%']",
)
SHIFTNAS = ("sampler.name=shiftnas", "sampler.held_out=0.2")


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (
            (*CONVNET, "sharing.name=bilateral", *SHIFTNAS),
            "sampler.name = 'shiftnas' learns by policies, whose masks are of the first channels "
            "of every width, and sharing.name = 'bilateral' places channels elsewhere: take",
        ),
        (
            (*CONVNET, "sharing.name=locally_free", *SHIFTNAS),
            "and sharing.name = 'locally_free' places channels elsewhere",
        ),
        (
            (
                *(*CONVNET, "sharing.name=bilateral", "shifting.name=population"),
                *("shifting.statistics=running", "shifting.timing=after_candidate"),
            ),
            "shifting.statistics = 'running' keeps those of one placement of the channels",
        ),
        (
            (*CONVNET, "sharing.name=bilateral", "train.snapshots={number=2, epochs=0.5}"),
            "train.snapshots: snapshots vote on a path with its first channels, and Bilateral",
        ),
        (
            ("sharing.name=bilateral",),
            "this network has no layer of elastic width: give one that has",
        ),
        (
            ("sampler.name=complement",),
            "no decision of this space is a number of channels: take sampler.name = 'uniform'",
        ),
        (
            (*MACRO, "finish.mode=inherit"),
            "finish.mode = 'inherit' delivers the weights of the supernet, and "
            "chain.2.options.identity.0 of it stands in for what a network has in its place",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_trains(overrides, text):
    with pytest.raises(ValueError) as caught:
        check(Workspace.build(small(*overrides)))
    assert text in str(caught.value)


def test_a_run_with_both_sides_delivers_the_left_one(tmp_path):
    recipe = small(
        *(*CONVNET, "sharing.name=bilateral", "sampler.name=complement", "finish.mode=inherit")
    )
    result = run(recipe, tmp_path / "run")
    done = ms.Run(tmp_path / "run")
    net, images = done.net.eval(), torch.randn(3, 1, 10, 10)
    arch = done.winners[0].arch
    assert net.placement(arch) is ms.nn.LEFT
    with torch.no_grad():
        expected = net(images, arch, stats=done.stats(arch))
        assert torch.equal(done.finished(arch).eval()(images), expected)
    assert result["winners"][0]["arch"] == net.space.to_text(arch)
    for line in lines(tmp_path / "run", "search.jsonl"):
        sides = len(net.scored(net.space.from_text(line["arch"])))
        assert line["images_forwarded"] in (0, sides * (64 + 64))  # to calibrate and to score


def test_what_stood_in_is_out_of_what_a_run_delivers(tmp_path):
    run(small(*MACRO), tmp_path / "run")
    done = ms.Run(tmp_path / "run")
    assert done.net.stands_in() == ["chain.2.options.identity.0"]
    for winner in done.winners:
        kinds = {type(module).__name__ for module in done.finished(winner.arch).modules()}
        assert "LinearSkip" not in kinds
