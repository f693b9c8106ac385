"""What notebooks show: the cells of tables, with every character of names escaped."""

import html
import re

import pytest
import torch
from torch import nn

import manyshot as ms
from manyshot.notebook import html as drawn
from manyshot.recipe import Recipe
from manyshot.run_folder import RunFolder


def cells(page: str) -> list[list[str]]:
    """The text of every cell in the body of all tables."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    texts = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in rows]
    return [[html.unescape(re.sub(r"<[^>]+>", "", t)).strip() for t in row] for row in texts if row]


def test_a_space_shows_its_decisions():
    space = ms.SearchSpace([ms.Decision((3, 5), "<kernel>"), ms.Decision((8, 16, 24), "width")])
    page = space._repr_html_()
    assert cells(page) == [["0", "<kernel>", "3, 5"], ["1", "width", "8, 16, 24"]]
    assert "<kernel>" not in page and "6 encodings" in page


def test_a_conversion_shows_what_varies_and_what_does_not():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(1, 16, 3), nn.Linear(16, 10)

        def forward(self, x):
            return self.last(self.first(x).mean((2, 3)))

    torch.manual_seed(0)
    net = ms.convert(Net(), torch.randn(2, 1, 8, 8))
    page = net.conversion._repr_html_()
    [decision] = net.conversion.decisions
    assert cells(page)[0] == [decision.name, "width", ", ".join(decision.modules)]
    assert html.escape(net.conversion.summary()) in page
    titles = re.findall(r"<h3>(.*?)</h3>", page)
    assert titles[0] == "Converted"
    assert ("Not converted" in titles) == bool(net.conversion.fixed)


def test_images_show_their_classes_and_parts():
    splits = ms.data.load("digits", validation=100)
    rows = cells(splits._repr_html_())
    assert rows[-1] == ["all", "1,248", "100", "449"]
    labels = [splits.train.labels, splits.validation.labels, splits.test.labels]
    threes = [str(int((part == 3).sum())) for part in labels]
    assert rows[3] == ["3", *threes]


def test_a_search_shows_its_winners():
    torch.manual_seed(0)
    net = ms.Supernet(ms.zoo.tiny(width=3), input_shape=(1, 8, 8))
    searched = ms.find(
        net, budgets=["macs<=50%"], score=lambda arch: -sum(arch), candidates=70, seed=1
    )
    [winner] = searched.winners
    page = searched._repr_html_()
    [[budget, arch, macs, *_, score]] = cells(page)
    assert budget.replace("\u00a0", "") == "macs≤50%"
    assert arch == "-".join(map(str, winner.arch)) and float(score) == winner.score
    assert macs.replace("\u202f", "").startswith(f"{winner.costs['macs'] / 1000:.3g}"[:3])
    assert "70 architectures were scored." in page


def test_a_recipe_shows_what_it_changes():
    recipe = Recipe.build({"train": {"epochs": 7}, "search": {"name": "random"}}, (), "here")
    page = recipe._repr_html_()
    assert cells(page) == [
        ["train.epochs", "7", "100"],
        ["search.name", '"random"', '"evolution"'],
        ["search.options", "{}", "{population = 30, parents = 10, mutants = 15, crossovers = 15}"],
    ]
    assert "epochs = 7" in page and "<details>" in page
    assert "The default recipe." in Recipe()._repr_html_()
    converted = Recipe.build({"network": {"name": "torchvision:resnet18"}}, (), "here")
    keys = [row[0] for row in cells(converted._repr_html_())]
    assert keys == ["network.name", "sampler.name"]


def test_a_winner_of_a_run_stands_beside_its_controls(everything):
    run = ms.Run(everything)
    winner = run.winners[-1]
    result = RunFolder(everything).result()
    controls = [one for one in result.controls if one.budget == winner.budget]
    rows = cells(winner._repr_html_())
    assert len(rows) == 1 + len(controls)
    assert "-".join(map(str, winner.arch)) in rows[0]
    assert len(cells(run._repr_html_())) == len(result.winners) + len(result.controls)


def test_what_is_not_known_is_said():
    with pytest.raises(TypeError, match="no table is known of a int"):
        drawn(3)
