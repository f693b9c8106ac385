"""Steps whose images run in parts, against steps on whole batches."""

import pytest
import torch
from shift_nets import shifting
from train_nets import Dropping, seeded, trainer, weights

import manyshot as ms
from manyshot import records
from manyshot.train import Plan, PlannedPath, Stateless, train


@pytest.mark.parametrize("sampler", ["uniform", "sandwich"])
def test_parts_make_the_step_of_the_whole_batch(sampler, tmp_path):
    """Float64 leaves only the order of summation: 1e-12."""
    results = {}
    for parts in (1, 4):
        net = seeded(lambda: ms.Supernet(Dropping(dropout=0.0))).double()
        sizes = set()
        net.register_forward_pre_hook(lambda _, args, seen=sizes: seen.add(len(args[0])))
        settings = {"dtype": torch.float64, "clip_norm": 1.0, "accumulate": parts}
        train(trainer(net, tmp_path / str(parts), sampler, **settings))
        assert sizes == {32 // parts}
        results[parts] = weights(net), records.read_lines(tmp_path / str(parts) / "train.jsonl")
    (whole, rows), (in_parts, in_rows) = results[1], results[4]
    for name, tensor in whole.items():
        torch.testing.assert_close(in_parts[name], tensor, rtol=1e-12, atol=1e-12)
    assert [row["loss"] for row in in_rows] == pytest.approx([row["loss"] for row in rows])


class Hearing(Stateless):
    """Remembers what it is told."""

    def __init__(self, space) -> None:
        self.space, self.heard = space, []

    def plan(self, rng, step):
        return Plan((PlannedPath(self.space.smallest), PlannedPath(self.space.largest)))

    def feedback(self, plan, losses, probed=None):
        self.heard.append([float(loss) for loss in losses])


def test_a_sampler_is_told_the_losses_of_the_whole_batch_once_a_step():
    heard = []
    for parts in (1, 2):
        net = seeded(lambda: ms.Supernet(Dropping(dropout=0.0)))
        run = trainer(net, accumulate=parts, epochs=1)
        run.sampler = Hearing(net.space)
        train(run)
        heard.append(run.sampler.heard)
    assert len(heard[0]) == len(heard[1]) == 4
    for whole, in_parts in zip(*heard, strict=True):  # of 32 bits, added in another order
        assert in_parts == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("parts", [5, 32])
def test_parts_that_are_not_equal_or_of_one_image_are_refused(parts):
    message = f"accumulate = {parts} cuts batch_size = 32 .* multiple of {parts}, and at least"
    with pytest.raises(ValueError, match=message):
        trainer(accumulate=parts)


def test_a_sampler_that_learns_by_gradients_needs_whole_batches():
    with pytest.raises(ValueError, match="accumulate = 2 .* learns by the gradients"):
        shifting(None, None, None, dtype=torch.float32, epochs=1, accumulate=2)
