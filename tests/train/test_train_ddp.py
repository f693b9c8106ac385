"""Two processes on the loopback against one process with the whole batch."""

import functools
import sys

import ddp_worker
import pytest
import torch
from train_nets import same

from manyshot import records
from two_processes import two_processes


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    for process in two_processes([sys.executable, ddp_worker.__file__, str(folder)]):
        assert process.returncode == 0, process.errors
    return folder, [torch.load(folder / f"{rank}-of-2.pt") for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """By sampler what one process alone does, and the folder that it writes to."""

    @functools.cache
    def done(sampler):
        folder = tmp_path_factory.mktemp("alone")
        return ddp_worker.without_norms(sampler, folder), folder

    return done


SAMPLERS = [
    "uniform",
    "fair",
    "sandwich",
    "some",
    "mixed",
    "shrinks",
    "pada",
    "codes",
    "joint",
    "widths",
    "both",
]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_both_ranks_draw_the_same_plans(ranks, sampler):
    one, two = (result[sampler]["plans"] for result in ranks[1])
    assert one == two
    assert len(one) == ddp_worker.STEPS


def test_chunks_of_code_steps_have_their_plans_and_both_ranks_the_same_weights(ranks):
    """Of five steps one warms up, two train codes on two chunks each."""
    one, two = (result["chunks"] for result in ranks[1])
    assert one["plans"] == two["plans"]
    assert len(one["plans"]) == 1 + 2 + 2 * 2
    assert same(one["weights"], two["weights"])
    codes = [all(n.startswith("model.") for n in names) for names in one["absent"]]
    assert codes == [False, False, True, False, True]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_two_processes_equal_one_with_the_whole_batch(ranks, alone, sampler):
    """Float64 leaves only the order of summation: 1e-12."""
    one, _ = alone(sampler)
    for result in ranks[1]:
        assert result["world"] == 2
        assert result[sampler]["plans"] == one["plans"]
        for name, tensor in one["weights"].items():
            other = result[sampler]["weights"][name]
            torch.testing.assert_close(tensor, other, rtol=1e-12, atol=1e-12)
    assert same(ranks[1][0][sampler]["weights"], ranks[1][1][sampler]["weights"])


def test_norms_are_those_of_the_whole_batch(ranks, alone):
    """Norms that samplers learn from; float64 leaves only the order of summation."""
    one, two = (result["pada"]["norms"] for result in ranks[1])
    assert str(one) == str(two)  # in which nan equals nan
    for ours, whole in zip(one, alone("pada")[0]["norms"], strict=True):
        assert ours == pytest.approx(whole, rel=1e-12, nan_ok=True)


def test_gradients_are_averaged_also_of_what_one_process_alone_used(ranks):
    values = torch.arange(48.0).view(2, 2, 3, 4)
    for result in ranks[1]:
        grads = result["exchanged"]
        assert torch.equal(grads["both"], 1.5 * values)
        assert torch.equal(grads["last"], 1.5 * values)
        assert torch.equal(grads["first"], 0.5 * values)
        assert torch.equal(grads["complex"], torch.tensor([1.5 + 3j, 4.5j]))
        assert torch.equal(grads["double"], torch.tensor(0.5, dtype=torch.float64))
        assert grads["none"] is None


def test_weights_and_buffers_of_the_first_process_are_those_of_all(ranks):
    for result in ranks[1]:
        assert result["from_first"].tolist() == [0, 1]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_no_path_uses_has_no_gradient(ranks, alone, sampler):
    one, _ = alone(sampler)
    for result in ranks[1]:
        assert result[sampler]["absent"] == one["absent"]


def test_options_off_the_plan_stay_where_they_were(ranks):
    before = ddp_worker.seeded(lambda: ddp_worker.ms.Supernet(ddp_worker.Dropping())).double()
    for result in ranks[1]:
        [absent] = {tuple(names) for names in result["some"]["absent"]}
        assert {name.split(".")[3] for name in absent} == {"4"}
        for name, tensor in before.state_dict().items():
            moved = not torch.equal(tensor, result["some"]["weights"][name])
            assert moved != (name in absent), name


@pytest.mark.parametrize("network", ["norms", "empty"])
def test_with_batch_norm_both_ranks_have_the_same_weights(ranks, network):
    one, two = (result[network] for result in ranks[1])
    assert same(one, two)


def test_records_are_written_once(ranks):
    rows = records.read_lines(ranks[0] / "run-2" / "train.jsonl")
    assert [row["step"] for row in rows] == [2, 4]
    assert sorted(p.name for p in (ranks[0] / "run-2").iterdir()) == ["train.jsonl", "trainer.pt"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_recorded_loss_is_that_of_all_images(ranks, alone, sampler):
    """The mean over processes, exchanged in float32."""
    _, folder = alone(sampler)
    one = records.read_lines(folder / "train.jsonl")
    both = records.read_lines(ranks[0] / f"{sampler}-2" / "train.jsonl")
    for key in ("loss", "code_loss"):
        assert [key in row for row in both] == [key in row for row in one]
        own = [row[key] for row in one if key in row]
        assert [row[key] for row in both if key in row] == pytest.approx(own, rel=1e-6)
    assert [row["images"] for row in both] == [row["images"] for row in one]


@pytest.mark.parametrize("kind", list(ddp_worker.RELAXED))
def test_two_processes_learn_the_weights_of_options_of_one(ranks, kind):
    """Logits in float32, of which Adam divides gradients by their size, mix weights in float64."""
    alone = ddp_worker.with_weights_of_options(kind)
    one, two = (result[kind] for result in ranks[1])
    assert torch.equal(one["logits"], two["logits"])
    assert same(one["weights"], two["weights"])
    torch.testing.assert_close(one["logits"], alone["logits"], rtol=1e-5, atol=1e-6)
    assert (alone["logits"].abs() > 0.05).any()  # they moved: four steps of 0.1
    for name, tensor in alone["weights"].items():
        torch.testing.assert_close(one["weights"][name], tensor, rtol=1e-8, atol=1e-9)
    records_of_one = records.read_lines(ranks[0] / f"{kind}-2" / "sampler.jsonl")
    assert [row["step"] for row in records_of_one] == [2, 4]


# -- learnt samplers ---------------------------------------------------------------------------


@pytest.fixture(scope="module", params=list(ddp_worker.SHIFTS))
def shifts(request, ranks):
    """What both ranks and one process alone learnt."""
    one, two = (result[request.param] for result in ranks[1])
    return one, two, ddp_worker.with_shift(request.param), ranks[0] / f"{request.param}-2"


def test_both_ranks_learn_the_same_sampler(shifts):
    one, two, *_ = shifts
    assert one["plans"] == two["plans"]
    for part in ("weights", "saved", "generator"):
        assert same(one[part], two[part]), part
    assert torch.equal(one["logits"], two["logits"])
    assert len(one["answers"]) == len(two["answers"]) > 0
    for ours, theirs in zip(one["answers"], two["answers"], strict=True):
        assert same(ours, theirs)  # losses of probes, and gradients, which each had a share of
    assert one["probed_images"] == two["probed_images"]


def test_two_processes_learn_the_sampler_of_one(shifts):
    one, _, alone, _ = shifts
    assert one["plans"] == alone["plans"]
    for part in ("weights", "saved"):
        for name, tensor in alone[part].items():
            # float64 leaves only the order of summation
            torch.testing.assert_close(one[part][name], tensor, rtol=1e-12, atol=1e-12)
    for name, tensor in alone["generator"].items():
        # float32: gradients of halves differ by 1e-7 of theirs, a rate of 0.03 in twelve steps
        torch.testing.assert_close(one["generator"][name], tensor, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(one["answers"], alone["answers"], strict=True):
        for kind in ours:
            # probes take the softmax in float32
            torch.testing.assert_close(ours[kind], theirs[kind], rtol=1e-6, atol=1e-7)
    # changes of loss of order 1e-2 with that error, and Adam divides by them
    torch.testing.assert_close(one["logits"], alone["logits"], rtol=1e-3, atol=1e-5)
    assert (alone["logits"] != 0).any()
    assert one["probed_images"] == alone["probed_images"]


def test_what_a_sampler_reports_is_written_once(shifts):
    rows = records.read_lines(shifts[3] / "sampler.jsonl")
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps))
    assert sum(row["update"] for row in rows if "update" in row) == len(shifts[0]["answers"])


@pytest.mark.parametrize("mode", list(ddp_worker.MODES))
def test_two_processes_shift_as_one_with_the_whole_batches(ranks, mode):
    """Float64 leaves only the order of summation: 1e-12."""
    alone, results = ddp_worker.shifted(mode), ranks[1]
    for name, tensor in alone.items():
        other = results[0]["shifted"][mode][name]
        torch.testing.assert_close(tensor, other, rtol=1e-12, atol=1e-12)
    assert same(*(result["shifted"][mode] for result in results))
