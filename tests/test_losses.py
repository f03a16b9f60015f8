import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, normalize

from training.losses import LossError, info_nce, soft_margin_triplet

sizes = st.tuples(st.integers(2, 7), st.integers(1, 9), st.integers(0, 8), st.integers(0, 2**31))


def unit_rows(count: int, dimension: int, random: torch.Generator) -> torch.Tensor:
    return normalize(torch.randn(count, dimension, dtype=torch.float64, generator=random), dim=1)


def looped_triplets(street, aerial, queue, queue_mask, pair_mask, weight, alpha=10.0):
    """Eq. 4-6 one triplet at a time, in Python floats."""

    def term(anchor, positive, negative):
        d_pos, d_neg = (sum((anchor - other) ** 2).item() for other in (positive, negative))
        return math.log1p(math.exp(alpha * (d_pos - d_neg)))

    batch, earlier = [], []
    for i in range(len(street)):
        for j in range(len(street)):
            if i != j and not pair_mask[i, j]:
                batch.append(term(street[i], aerial[i], aerial[j]))
                batch.append(term(aerial[j], street[j], street[i]))
        for j in range(len(queue)):
            if not queue_mask[i, j]:
                earlier.append(term(street[i], aerial[i], queue[j]))
    return sum(batch) / max(1, len(batch)) + weight * sum(earlier) / max(1, len(earlier))


@settings(deadline=None)
@given(sizes)
def test_triplet_loss_equals_a_loop_over_triplets(size):
    b, d, q, seed = size
    random = torch.Generator().manual_seed(seed)
    street, aerial, queue = (unit_rows(n, d, random) for n in (b, b, q))
    queue_mask = torch.rand(b, q, generator=random) < 0.5
    pair_mask = torch.rand(b, b, generator=random) < 0.4
    loss = soft_margin_triplet(
        street, aerial, queue=queue, queue_mask=queue_mask, pair_mask=pair_mask, queue_weight=0.7
    )
    oracle = looped_triplets(street, aerial, queue, queue_mask, pair_mask, 0.7)
    assert loss.item() == pytest.approx(oracle, rel=1e-7)


def test_all_triplets_are_counted_and_no_others():
    same = torch.zeros(5, 3)
    assert soft_margin_triplet(same, same).item() == pytest.approx(math.log(2))
    with_queue = soft_margin_triplet(same, same, queue=same[:2], queue_weight=0.5)
    assert with_queue.item() == pytest.approx(1.5 * math.log(2))


def test_alpha_10_on_squared_distance_is_alpha_20_on_cosine():
    random = torch.Generator().manual_seed(1)
    street, aerial = unit_rows(6, 8, random), unit_rows(6, 8, random)
    cosine = street @ aerial.T
    off = ~torch.eye(6, dtype=torch.bool)
    of_streets = (1 + (20 * (cosine - cosine.diagonal()[:, None])).exp()).log()[off]
    of_aerials = (1 + (20 * (cosine - cosine.diagonal()[None, :])).exp()).log()[off]
    expected = torch.cat([of_streets, of_aerials]).mean().item()
    assert soft_margin_triplet(street, aerial).item() == pytest.approx(expected, rel=1e-9)


def test_huge_distances_do_not_overflow():
    street = torch.tensor([[1e6], [-1e6]], requires_grad=True)
    loss = soft_margin_triplet(street, -street.detach(), queue=torch.zeros(1, 1))
    loss.backward()
    assert loss.item() == pytest.approx(4e13 + 3e13, rel=1e-4)
    assert bool(street.grad.isfinite().all())


def test_no_gradient_reaches_the_queue_but_it_does_reach_the_batch():
    random = torch.Generator().manual_seed(2)
    street, aerial, queue = (unit_rows(3, 4, random).requires_grad_() for _ in range(3))
    soft_margin_triplet(street, aerial, queue=queue).backward()
    assert queue.grad is None
    assert bool((street.grad != 0).any())
    assert bool((aerial.grad != 0).any())


def test_the_order_of_a_batch_does_not_matter():
    random = torch.Generator().manual_seed(3)
    street, aerial, queue = (unit_rows(n, 4, random) for n in (6, 6, 5))
    masks = {
        "pair_mask": torch.rand(6, 6, generator=random) < 0.3,
        "queue_mask": torch.rand(6, 5, generator=random) < 0.3,
    }
    order = torch.randperm(6, generator=random)
    turned = {
        "pair_mask": masks["pair_mask"][order][:, order],
        "queue_mask": masks["queue_mask"][order],
    }
    loss = soft_margin_triplet(street, aerial, queue=queue, **masks)
    again = soft_margin_triplet(street[order], aerial[order], queue=queue, **turned)
    assert again.item() == pytest.approx(loss.item(), rel=1e-12)


def test_a_row_queue_mask_holds_for_every_street():
    random = torch.Generator().manual_seed(4)
    street, aerial, queue = (unit_rows(n, 4, random) for n in (3, 3, 4))
    mask = torch.tensor([True, False, True, False])
    masked = soft_margin_triplet(street, aerial, queue=queue, queue_mask=mask)
    kept = soft_margin_triplet(street, aerial, queue=queue[[1, 3]])
    assert masked.item() == pytest.approx(kept.item(), rel=1e-12)


def info_nce_at_1(street, aerial, **masks):
    return info_nce(street, aerial, 1.0, **masks)


@pytest.mark.parametrize("loss", [soft_margin_triplet, info_nce_at_1])
def test_everything_masked_is_zero_and_differentiable(loss):
    street = torch.eye(3).requires_grad_()
    value = loss(street, torch.eye(3).roll(1, 0), pair_mask=torch.ones(3, 3, dtype=torch.bool))
    value.backward()
    assert value.item() == 0
    assert not bool(street.grad.any())


def test_autocast_changes_nothing():
    random = torch.Generator().manual_seed(5)
    street, aerial = (unit_rows(4, 16, random).float() for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        losses = soft_margin_triplet(street, aerial), info_nce(street, aerial, 0.1)
    assert losses == (soft_margin_triplet(street, aerial), info_nce(street, aerial, 0.1))
    assert {loss.dtype for loss in losses} == {torch.float32}


def test_a_single_pair_needs_a_queue():
    row = torch.ones(1, 2)
    for queue in (None, torch.empty(0, 2)):
        with pytest.raises(LossError, match="1 pair"):
            soft_margin_triplet(row, row, queue=queue)
    assert soft_margin_triplet(row, row, queue=row).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    "wrong",
    [
        {"pair_mask": torch.zeros(2, 2)},
        {"pair_mask": torch.zeros(3, 2, dtype=torch.bool)},
        {"queue": torch.zeros(4, 3)},
        {"queue_mask": torch.zeros(4, dtype=torch.bool)},
        {"queue": torch.zeros(4, 2), "queue_mask": torch.zeros(3, dtype=torch.bool)},
    ],
)
def test_masks_and_queues_that_do_not_fit_are_refused(wrong):
    for loss in (soft_margin_triplet, info_nce_at_1):
        with pytest.raises(LossError, match=r"expected|without a queue"):
            loss(torch.eye(2), torch.eye(2), **wrong)
    with pytest.raises(LossError, match="same"):
        soft_margin_triplet(torch.eye(2), torch.eye(3))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_info_nce_equals_cross_entropy_both_ways(smoothing):
    random = torch.Generator().manual_seed(6)
    street, aerial = unit_rows(5, 4, random), unit_rows(5, 4, random)
    temperature = torch.tensor(0.07, dtype=torch.float64, requires_grad=True)
    loss = info_nce(street, aerial, temperature, smoothing)
    logits, target = street @ aerial.T / 0.07, torch.arange(5)
    both = [cross_entropy(x, target, label_smoothing=smoothing) for x in (logits, logits.T)]
    assert loss.item() == pytest.approx(sum(both).item() / 2, rel=1e-6)
    assert torch.autograd.grad(loss, temperature)[0].item() != 0


def test_info_nce_ignores_masked_pairs():
    random = torch.Generator().manual_seed(7)
    street, aerial = unit_rows(4, 6, random), unit_rows(4, 6, random)
    apart = torch.ones(4, 4, dtype=torch.bool)
    apart[:2, :2] = apart[2:, 2:] = False
    loss = info_nce(street, aerial, 0.1, 0.2, pair_mask=apart)
    halves = [info_nce(street[half], aerial[half], 0.1, 0.2) for half in ([0, 1], [2, 3])]
    assert loss.item() == pytest.approx(sum(halves).item() / 2, rel=1e-12)


def looped_info_nce(street, aerial, queue, queue_mask, pair_mask, temperature, smoothing):
    """One anchor at a time, in Python floats; the queue's aerials are for street anchors alone."""

    def surprise(anchor, own, others):
        logits = [(anchor @ candidate).item() / temperature for candidate in (own, *others)]
        total = math.log(sum(map(math.exp, logits)))
        spread = sum(total - logit for logit in logits) / len(logits)
        return (1 - smoothing) * (total - logits[0]) + smoothing * spread

    rows, losses = range(len(street)), []
    for i in rows:
        others = [aerial[j] for j in rows if j != i and not pair_mask[i, j]]
        earlier = [
            descriptor
            for descriptor, masked in zip(queue, queue_mask[i], strict=True)
            if not masked
        ]
        losses.append(surprise(street[i], aerial[i], others + earlier))
        others = [street[j] for j in rows if j != i and not pair_mask[j, i]]
        losses.append(surprise(aerial[i], street[i], others))
    return sum(losses) / len(losses)


@settings(deadline=None)
@given(sizes)
def test_info_nce_equals_a_loop_over_anchors(size):
    b, d, q, seed = size
    random = torch.Generator().manual_seed(seed)
    street, aerial, queue = (unit_rows(n, d, random) for n in (b, b, q))
    masks = {
        "queue_mask": torch.rand(b, q, generator=random) < 0.5,
        "pair_mask": torch.rand(b, b, generator=random) < 0.4,
    }
    loss = info_nce(street, aerial, 0.2, 0.1, queue=queue, **masks)
    oracle = looped_info_nce(street, aerial, queue, temperature=0.2, smoothing=0.1, **masks)
    assert loss.item() == pytest.approx(oracle, rel=1e-9)


def test_an_empty_queue_does_not_change_info_nce():
    random = torch.Generator().manual_seed(8)
    street, aerial = (unit_rows(6, 16, random).float().requires_grad_() for _ in range(2))
    results = []
    for queue in (None, torch.empty(0, 16)):
        loss = info_nce(street, aerial, 0.07, 0.1, queue=queue)
        results.append((loss, *torch.autograd.grad(loss, (street, aerial))))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@pytest.mark.parametrize("setting", [{"temperature": 0.0}, {"label_smoothing": 1.0}])
def test_info_nce_refuses_impossible_settings(setting):
    with pytest.raises(LossError, match=next(iter(setting))):
        info_nce(torch.eye(2), torch.eye(2), **{"temperature": 0.1, **setting})
