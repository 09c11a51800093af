"""CRD: its loss and memories by hand, in float64, and what its negatives are."""

import math

import pytest
import torch

from fastadv.distill import CRD, Batch
from fastadv.distill.parts import noise
from fastadv.distill.parts.memory import MemoryBank
from tests.distill.staged import staged_student, staged_teacher

IMAGES = 12
CLASSES = torch.arange(IMAGES) % 3
OPTIONS = {"negatives": 6, "width": 7, "gamma": 0.0, "beta": 1.0}


@pytest.fixture
def networks(_seeded):
    return staged_student().double().eval(), staged_teacher().double().eval()


@pytest.fixture
def pixels(_seeded):
    return torch.rand(IMAGES, 1, 8, 8).double()


def built(networks, pixels, **options):
    method = CRD(**{**OPTIONS, **options})
    method.build(*networks, pixels, images=IMAGES)
    return method


def some(pixels, *index, seed=3):
    indices = torch.tensor(index)
    return Batch(pixels[indices], CLASSES[indices], seed=seed, index=indices, progress=0.0)


def embedded(memory, features):
    rows = features @ memory.linear.weight.T + memory.linear.bias
    return rows / rows.square().sum(1, keepdim=True).sqrt()


def test_loss_and_memories_by_hand(networks, pixels):
    method = built(networks, pixels, contrast_temperature=0.2, momentum=0.25)
    contrast = method.contrast
    memories = contrast.student, contrast.teacher
    z: list[float] = []
    for step, batch in enumerate([some(pixels, 4, 1, 8), some(pixels, 1, 2, 3, 5, seed=4)]):
        rows = [memory.rows.clone() for memory in memories]
        embeddings = [
            embedded(memory, network.with_features(batch.x).embedding).detach()
            for memory, network in zip(memories, networks, strict=True)
        ]
        loss = method(*networks, batch)["loss"]
        # Each draw depends on the seed, the index and the classes known, which are the same after the step.
        negatives = contrast._draw(batch.y, batch.index, batch.seed)

        expected = 0.0
        for side, (anchors, bank) in enumerate(((embeddings[0], rows[1]), (embeddings[1], rows[0]))):
            likeness = [
                [math.exp(float(anchor @ bank[j]) / 0.2) for j in (int(i), *drawn.tolist())]
                for anchor, i, drawn in zip(anchors, batch.index, negatives, strict=True)
            ]
            if step == 0:
                z.append(IMAGES * sum(map(sum, likeness)) / (len(anchors) * 7))
            for positive, *others in likeness:
                p, noise = positive / z[side], 6 / IMAGES
                told = math.log(p / (p + noise + 1e-7))
                told += sum(math.log(noise / (other / z[side] + noise + 1e-7)) for other in others)
                expected -= told / len(anchors)
        torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64))

        for memory, before, new in zip(memories, rows, embeddings, strict=True):
            after = before.clone()
            for i, embedding in zip(batch.index, new, strict=True):
                row = 0.25 * before[i] + 0.75 * embedding
                after[i] = row / row.norm()
            torch.testing.assert_close(memory.rows, after)
    torch.testing.assert_close(contrast.teacher.partition, torch.tensor(z[0], dtype=torch.float64))
    torch.testing.assert_close(contrast.student.partition, torch.tensor(z[1], dtype=torch.float64))


def test_gradients_are_those_of_the_memory_before_the_step(networks, pixels):
    """The step changes the memory before the backward pass: gradients must not notice."""
    method, batch = built(networks, pixels), some(pixels, 4, 1, 8)
    method(*networks, some(pixels, 0, 5))
    state = {name: value.clone() for name, value in method.state_dict().items()}
    layer = method.contrast.student.linear

    def loss_at(shift):
        method.load_state_dict(state)
        with torch.no_grad():
            layer.bias[0] += shift
        return method(*networks, batch)["loss"]

    loss_at(0.0).backward()
    slope = (loss_at(1e-5) - loss_at(-1e-5)).detach() / 2e-5
    torch.testing.assert_close(layer.bias.grad[0], slope, rtol=1e-6, atol=1e-8)


def test_negatives_are_of_other_classes_each_as_often(networks, pixels):
    method = built(networks, pixels, negatives=4000)
    contrast, batch = method.contrast, some(pixels, *range(IMAGES))
    method(*networks, batch)
    drawn = contrast._draw(batch.y, batch.index, 5)
    assert drawn.shape == (IMAGES, 4000)
    for image in range(IMAGES):
        counts = drawn[image].bincount(minlength=IMAGES)
        assert (counts[CLASSES[image] == CLASSES] == 0).all()
        # Eight others of probability 1/8: 500 each, with standard deviation 21.
        assert ((counts[CLASSES[image] != CLASSES] - 500).abs() < 120).all()
    assert not torch.equal(drawn[0].sort().values, drawn[3].sort().values)


def test_negatives_by_hand(networks, pixels):
    contrast, batch = built(networks, pixels).contrast, some(pixels, 7, 2, 6)
    contrast.classes.copy_(CLASSES)
    drawn = contrast._draw(batch.y, batch.index, 5)
    numbers = noise.uniform(batch.index, 6, seed=5, stream=noise.APART, like=contrast.student.rows)
    for row, image in enumerate(batch.index):
        others = [j for c in range(3) for j in range(IMAGES) if CLASSES[j] == c != CLASSES[image]]
        assert drawn[row].tolist() == [others[int((float(u) + 1) / 2 * len(others))] for u in numbers[row]]


def test_an_image_of_unknown_class_is_a_negative_of_all(networks, pixels):
    method = built(networks, pixels, negatives=400)
    contrast, batch = method.contrast, some(pixels, 0, 1, 3)
    method(*networks, batch)
    drawn = contrast._draw(batch.y, batch.index, 5)
    assert set(drawn[0].tolist()) == set(range(IMAGES)) - {0, 3}
    assert set(drawn[1].tolist()) == set(range(IMAGES)) - {1}


def test_a_set_of_one_class_stays_within_the_memory(networks, pixels):
    contrast = built(networks, pixels).contrast
    contrast.classes.zero_()
    drawn = contrast._draw(torch.zeros(3, dtype=torch.int64), torch.arange(3), 5)
    assert drawn.min() >= 0
    assert drawn.max() < IMAGES


def test_the_seed_and_the_image_decide_the_negatives(networks, pixels):
    contrast = built(networks, pixels).contrast
    contrast.classes.copy_(CLASSES)

    def draw(*index, seed):
        indices = torch.tensor(index)
        return contrast._draw(CLASSES[indices], indices, seed)

    assert torch.equal(draw(4, 1, seed=3), draw(4, 1, seed=torch.tensor(3)))
    assert torch.equal(draw(4, 1, seed=3), draw(1, 4, seed=3).flip(0))
    assert not torch.equal(draw(4, 1, seed=3), draw(4, 1, seed=4))


def test_memories_start_as_noise_of_length_about_one(networks, pixels):
    method = CRD(negatives=4)
    method.build(*networks, pixels, images=500)
    for memory in (method.contrast.student, method.contrast.teacher):
        assert memory.rows.shape == (500, 128)
        torch.testing.assert_close(memory.rows.norm(dim=1).mean(), torch.tensor(1.0).double(), atol=0.02, rtol=0)
        assert memory.rows.abs().max() <= math.sqrt(3 / 128)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"negatives": 0}, ValueError, "negatives must be at least 1, got 0"),
        ({"width": 1.5}, TypeError, "width must be an int, got float"),
        ({"contrast_temperature": 0.0}, ValueError, "contrast_temperature must be positive"),
        ({"momentum": 1.5}, ValueError, r"momentum must lie in \[0, 1\], got 1.5"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        CRD(**options)


def test_images_must_be_counted(networks, pixels):
    method = built(networks, pixels)
    with pytest.raises(TypeError, match=r"batch.index must be the positions .* for CRD, got None"):
        method(*networks, Batch(pixels, CLASSES, progress=0.0, seed=0))


def test_similarities_keep_their_precision_under_autocast():
    memory = MemoryBank(5, 7, IMAGES, temperature=0.07, momentum=0.5)
    anchors, indices = memory.embed(torch.randn(3, 5)), torch.arange(9).view(3, 3)
    expected = memory.nce_loss(anchors, indices)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(memory.nce_loss(anchors, indices), expected)
