import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manyshot.data.balance import balanced, hold_out

SETTINGS = settings(derandomize=True, deadline=None, max_examples=60)
LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=60)


def water_fill(caps: list[int], n: int) -> list[int]:
    """Counts per class by handing out one image at a time to the class that has fewest."""
    given_ = [0] * len(caps)
    for _ in range(n):
        open_ = [c for c in range(len(caps)) if given_[c] < caps[c]]
        given_[min(open_, key=lambda c: given_[c])] += 1
    return given_


@SETTINGS
@given(LABELS, st.data())
def test_counts_are_equal_as_far_as_the_classes_reach(labels, data):
    n = data.draw(st.integers(0, len(labels)))
    chosen = balanced(torch.tensor(labels), n, np.random.default_rng(n)).tolist()
    assert len(set(chosen)) == n
    counts = [sum(labels[i] == c for i in chosen) for c in range(5)]
    assert sorted(counts) == sorted(water_fill([labels.count(c) for c in range(5)], n))


@SETTINGS
@given(LABELS, st.data())
def test_a_smaller_choice_is_a_prefix_of_a_larger_one(labels, data):
    n = data.draw(st.integers(0, len(labels)))
    label = torch.tensor(labels)
    all_ = balanced(label, len(labels), np.random.default_rng(3))
    assert torch.equal(balanced(label, n, np.random.default_rng(3)), all_[:n])
    assert sorted(all_.tolist()) == list(range(len(labels)))


@SETTINGS
@given(LABELS, st.data())
def test_hold_out_splits_and_leaves_every_class(labels, data):
    label = torch.tensor(labels)
    most = len(labels) - len(set(labels))
    n = data.draw(st.integers(0, most))
    kept, held = hold_out(label, n, np.random.default_rng(0))
    assert len(held) == n
    assert sorted(kept.tolist() + held.tolist()) == list(range(len(labels)))
    assert kept.tolist() == sorted(kept.tolist())
    assert held.tolist() == sorted(held.tolist())
    assert {labels[i] for i in kept} == set(labels)
    with pytest.raises(ValueError, match=rf"hold out {most + 1} .* 0\.\.{most}"):
        hold_out(label, most + 1, np.random.default_rng(0))


def test_a_rare_class_keeps_half_of_its_images_while_others_can_give():
    label = torch.tensor([0] * 100 + [1] * 10)
    kept, held = hold_out(label, 40, np.random.default_rng(0))
    assert torch.bincount(label[held]).tolist() == [35, 5]
    _, held = hold_out(label, 100, np.random.default_rng(0))
    assert torch.bincount(label[held]).tolist() == [91, 9]


def test_images_and_extra_classes_are_drawn_evenly():
    # 3 of 4 classes get an image in each of 400 draws: each index is expected 3/40 * 400 = 30
    # times (sd 5.3) and each class 300 times (sd 8.7); bounds at more than 4 sd.
    label = torch.arange(40) % 4
    draws = torch.cat([balanced(label, 3, np.random.default_rng(s)) for s in range(400)])
    per_image = torch.bincount(draws, minlength=40)
    per_class = torch.bincount(label[draws], minlength=4)
    assert per_image.min() >= 8
    assert per_image.max() <= 54
    assert per_class.min() >= 260
    assert per_class.max() <= 340


# -- the same share of every class -----------------------------------------------------------------


@SETTINGS
@given(LABELS, st.data())
def test_every_class_gives_its_share(labels, data):
    """Beside the exact share: within one image, but where a class must give or keep one."""
    label, counts = torch.tensor(labels), np.bincount(labels, minlength=5)
    n = data.draw(st.integers(0, len(labels) - len(set(labels))))
    kept, held = hold_out(label, n, np.random.default_rng(n), stratified=True)
    assert len(held) == n
    assert sorted(kept.tolist() + held.tolist()) == list(range(len(labels)))
    assert {labels[i] for i in kept} == set(labels)
    gave, several = np.bincount([labels[i] for i in held], minlength=5), counts >= 2
    if n >= several.sum():
        assert (gave[several] >= 1).all()
    share = counts * n / len(labels)
    if ((share >= 1) & (share <= counts - 1)).all():
        assert np.abs(gave - share).max() < 1


def test_shares_of_classes_of_different_size():
    label = torch.tensor([0] * 950 + [1] * 50)
    kept, held = hold_out(label, 200, np.random.default_rng(0), stratified=True)
    assert torch.bincount(label[held]).tolist() == [190, 10]
    assert torch.bincount(label[kept]).tolist() == [760, 40]
    label = torch.tensor([0] * 95 + [1] * 3 + [2])
    _, held = hold_out(label, 10, np.random.default_rng(0), stratified=True)
    assert torch.bincount(label[held], minlength=3).tolist() == [9, 1, 0]


def test_which_class_gives_one_more_is_drawn():
    # One of 4 equal classes gives the one image in each of 400 draws: 100 times each (sd 8.7).
    label = torch.arange(40) % 4
    first = [hold_out(label, 1, np.random.default_rng(s), stratified=True)[1] for s in range(400)]
    assert torch.bincount(label[torch.cat(first)], minlength=4).min() > 60
