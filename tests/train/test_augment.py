import pytest
import torch

from fastadv.train.data.augment import EpochPlan, crop_flip


def test_crop_and_flip_equal_a_loop_over_images():
    images = torch.randint(1, 256, (20, 3, 7, 5), dtype=torch.uint8)
    pad = 2
    top, left = torch.randint(0, 2 * pad + 1, (2, 20))
    flip = torch.rand(20) < 0.5
    expected = torch.zeros_like(images)
    for i, image in enumerate(images):
        padded = torch.zeros(3, 7 + 2 * pad, 5 + 2 * pad, dtype=torch.uint8)
        padded[:, pad : pad + 7, pad : pad + 5] = image
        window = padded[:, top[i] : top[i] + 7, left[i] : left[i] + 5]
        expected[i] = torch.flip(window, dims=(2,)) if flip[i] else window
    assert torch.equal(crop_flip(images, top, left, flip, pad=pad), expected)


@pytest.mark.parametrize(
    ("augmentation", "pad", "flips"), [("none", 0, False), ("shift1", 1, False), ("crop4_flip", 4, True)]
)
def test_an_epochs_draws_are_in_range_and_reach_its_ends(augmentation, pad, flips):
    plan = EpochPlan.draw(2000, augmentation=augmentation, seed=0, epoch=0)
    assert sorted(plan.order.tolist()) == list(range(2000))
    for offsets in (plan.top, plan.left):
        assert set(offsets.tolist()) == set(range(2 * pad + 1))
    assert set(plan.flip.tolist()) == ({True, False} if flips else {False})


def test_an_epochs_draws_follow_from_seed_and_epoch_alone():
    def draw(seed, epoch):
        plan = EpochPlan.draw(50, augmentation="crop4_flip", seed=seed, epoch=epoch)
        return torch.stack([plan.order, plan.top, plan.left, plan.flip.long()])

    first = draw(0, 0)
    torch.rand(3)
    assert torch.equal(first, draw(0, 0))
    assert not torch.equal(first, draw(0, 1))
    assert not torch.equal(first, draw(1, 0))


def test_batches_cover_the_epoch_with_their_labels():
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 1, 4, 4).contiguous()
    plan = EpochPlan.draw(10, augmentation="none", seed=0, epoch=0)
    batches = [plan.batch(images, torch.arange(10), start, 4) for start in (0, 4, 8)]
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert sorted(torch.cat([labels for _, labels in batches]).tolist()) == list(range(10))
    for pictures, labels in batches:
        assert torch.equal(pictures[:, 0, 0, 0].long(), labels)


# Limits that a right draw passes but once in a million: of a share p of n draws within 5 standard deviations.
DRAWS = 40_000


def within(share, expected):
    return abs(share - expected) < 5 * (expected * (1 - expected) / DRAWS) ** 0.5


def test_half_of_the_images_are_flipped_and_every_window_is_as_likely():
    plan = EpochPlan.draw(DRAWS, augmentation="crop4_flip", seed=1, epoch=2)
    assert within(plan.flip.double().mean().item(), 0.5)
    for offsets in (plan.top, plan.left):
        for place in range(9):
            assert within((offsets == place).double().mean().item(), 1 / 9)


def test_draws_do_not_depend_on_each_other():
    plan = EpochPlan.draw(DRAWS, augmentation="crop4_flip", seed=1, epoch=3)
    columns = torch.stack([plan.order, plan.top, plan.left, plan.flip]).double()
    correlations = torch.corrcoef(columns) - torch.eye(4)
    assert correlations.abs().max() < 5 / DRAWS**0.5
    # Nor on the image that they fall on, nor on the epoch.
    by_image = columns[1:, plan.order.argsort()]
    other = EpochPlan.draw(DRAWS, augmentation="crop4_flip", seed=1, epoch=4)
    next_epoch = torch.stack([other.top, other.left, other.flip]).double()[:, other.order.argsort()]
    assert torch.corrcoef(torch.cat((by_image, next_epoch)))[:3, 3:].abs().max() < 5 / DRAWS**0.5


def test_an_order_is_any_permutation():
    """Of three images each of the six orders comes as often."""
    orders = [
        tuple(EpochPlan.draw(3, augmentation="none", seed=0, epoch=epoch).order.tolist()) for epoch in range(3000)
    ]
    for order in set(orders):
        assert abs(orders.count(order) / 3000 - 1 / 6) < 5 * (5 / 36 / 3000) ** 0.5
    assert len(set(orders)) == 6
