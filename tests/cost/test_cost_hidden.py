import pytest
import torch
from torch import nn

import manyshot as ms
from manyshot import cost


class Telling(nn.Module):
    """An option that leaves a note in a dictionary."""

    def __init__(self, notes, width):
        super().__init__()
        self.notes, self.width = notes, width

    def forward(self, x):
        self.notes["width"] = self.width
        return x


class Listening(nn.Module):
    """Reads the note: its products depend on a decision that it does not hold."""

    def __init__(self, notes):
        super().__init__()
        self.notes, self.weight = notes, nn.Parameter(torch.ones(3, 8))

    def forward(self, x):
        return x.mean((2, 3)) @ self.weight[:, : self.notes["width"]]


@pytest.mark.parametrize("options", [2, 3, 7])
def test_hidden_dependence_is_an_error_that_names_the_module(options):
    notes = {"width": 8}
    told = ms.nn.Choice([Telling(notes, i + 1) for i in range(options)], "told")
    net = ms.Supernet(nn.Sequential(told, nn.Sequential(nn.Identity(), Listening(notes))))
    with pytest.raises(cost.CostMismatch, match=r"'1\.1'.*ms\.value"):
        cost.macs(net, [net.space.largest], (3, 4, 4))


def test_hidden_dependence_on_the_last_of_many_decisions_is_found():
    notes = {"width": 8}
    quiet = [ms.nn.Choice([nn.Identity(), nn.Identity()], f"quiet{i}") for i in range(5)]
    told = ms.nn.Choice([Telling(notes, 8), Telling(notes, 8), Telling(notes, 3)], "told")
    net = ms.Supernet(nn.Sequential(*quiet, told, Listening(notes)))
    with pytest.raises(cost.CostMismatch, match="module '6'"):
        cost.macs_table(net, (3, 4, 4))


def test_too_many_sizes_in_one_module_is_an_error_that_names_it():
    class Summing(nn.Module):
        def __init__(self):
            super().__init__()
            self.widths = [ms.choose((1, 2, 3), f"w{i}") for i in range(10)]

        def forward(self, x):
            total = sum(map(ms.value, self.widths))
            return x.flatten(1)[:, :1].expand(-1, total) @ x.new_ones(total, 4)

    model = nn.Sequential(Summing())
    with pytest.raises(ValueError, match=r"'0'.*w0.*59,049 combinations"):
        cost.macs_table(ms.Supernet(model), (3, 2, 2))
