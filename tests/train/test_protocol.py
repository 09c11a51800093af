"""What a trainer owes a method: build, warm-up, epochs, an adversary, the positions of images, no image at all."""

import copy

import pytest
import torch
from torch import nn

from fastadv.distill import AdversarialMethod, CrossEntropy, Method
from fastadv.train.config.train_config import resolve
from fastadv.train.data import datasets
from fastadv.train.data.splits import Split, subset, to_pixels
from fastadv.train.loop.experiment import build_classifier
from fastadv.train.loop.trainer import Trainer
from fastadv.train.runtime.errors import ConfigError
from fastadv.train.runtime.metrics import read_metrics


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def make_trainer(digits, folder, method, *, train=None, teacher=None, **flags):
    config = resolve(flags={"epochs": "3", "batch_size": "60", "tensorboard": False, "log_steps": "3", **flags})
    return Trainer(
        model=build_classifier(config.student, config, digits, seed=0),
        method=method,
        teacher=teacher,
        train=subset(digits.train, 150, seed=0) if train is None else train,
        test=digits.test,
        config=config,
        seed=0,
        folder=folder,
        label="test",
    )


def cross_entropy(student, batch):
    return nn.functional.cross_entropy(student(batch.x), batch.y)


class Everything(AdversarialMethod):
    """Uses each part of the protocol; `events` says in which order."""

    needs_teacher = False
    warm_up_epochs = 2
    adversary_every = 2

    def __init__(self):
        super().__init__()
        self.adversary = nn.Linear(10, 1)
        nn.init.ones_(self.adversary.weight)
        nn.init.zeros_(self.adversary.bias)
        self.events = []

    def build(self, student, teacher, x, *, images):
        classes = student(x).shape[1]
        self.scale = nn.Parameter(torch.randn(classes))
        self.factor = nn.Linear(classes, 2)
        self.register_buffer("memory", torch.zeros(images))
        self.snapshot = copy.deepcopy(student).requires_grad_(False)
        self.events.append(("build", list(x.shape), images))

    def own_parameters(self):
        return iter([self.scale])

    def warm_up_parameters(self):
        return self.factor.parameters()

    def warm_up_terms(self, teacher, batch):
        self.events.append(("warm-up", batch.progress))
        return {"loss": self.factor(batch.x.flatten(1)[:, :10]).square().mean() + torch.rand(()) * 0}

    def start_epoch(self, student):
        self.events.append(("epoch", torch.rand(()).item()))
        self.snapshot.load_state_dict(student.state_dict())

    def forward(self, student, teacher, batch):
        self.events.append(("student", batch.index))
        loss = cross_entropy(lambda x: student(x) * self.scale, batch)
        self.memory[batch.index] += loss.detach()
        with torch.no_grad():
            kept = self.snapshot(batch.x)
        return {"loss": loss + 0.01 * (student(batch.x) - kept).square().mean() + self.factor.weight.mean() * 0}

    def adversary_optimizer(self):
        return torch.optim.Adam(self.adversary.parameters(), lr=0.25)

    def adversary_terms(self, student, teacher, batch):
        self.events.append(("adversary", batch.seed))
        # Deliberately no detach: the trainer gives the student no gradient all the same.
        return {"loss": self.adversary(student(batch.x)).mean()}


def test_the_parts_come_in_order_with_what_they_need(digits, tmp_path):
    method = Everything()
    trainer = make_trainer(digits, tmp_path, method, schedule="step", milestones="1,2", warm_up_lr="0.125")
    trainer.fit()
    kinds = [event[0] for event in method.events]
    epoch = ["epoch", "student", "student", "adversary", "student"]
    odd_epoch = ["epoch", "student", "adversary", "student", "student", "adversary"]
    assert kinds == ["build", *["warm-up"] * 6, *epoch, *odd_epoch, *epoch]
    assert method.events[0] == ("build", [60, 1, 8, 8], 150)
    assert [event[1] for event in method.events[1:7]] == pytest.approx([step / 6 for step in range(6)])
    for number in range(3):
        seen = torch.cat([event[1] for event in method.events if event[0] == "student"][3 * number : 3 * number + 3])
        assert torch.equal(seen.sort().values, torch.arange(150))
    warm_up = read_metrics(tmp_path, "warm-up")
    assert [row["step"] for row in warm_up] == [3, 6]
    assert {row["lr"] for row in warm_up} == {0.125}
    assert warm_up[1]["loss"] < warm_up[0]["loss"]
    rows = read_metrics(tmp_path, "train")
    assert all("adversary_loss" in row for row in rows)
    assert trainer.distiller._steps["adversary"].rate == pytest.approx(0.25 * 0.1**2)


def test_positions_are_those_of_the_images(digits, tmp_path):
    class Checks(Method):
        needs_teacher = False

        def forward(self, student, teacher, batch):
            assert torch.equal(batch.x, to_pixels(train.images[batch.index]))
            assert torch.equal(batch.y, train.labels[batch.index])
            return {"loss": cross_entropy(student, batch)}

    train = subset(digits.train, 150, seed=0)
    make_trainer(digits, tmp_path, Checks(), train=train, augmentation="none").fit()


def test_own_weights_follow_the_seed_and_the_global_generator_is_left_alone(digits, tmp_path):
    first, again, third = Everything(), Everything(), Everything()
    torch.manual_seed(1)
    make_trainer(digits, tmp_path, first)
    torch.manual_seed(2)
    make_trainer(digits, tmp_path, again)
    assert torch.equal(first.scale, again.scale)
    torch.manual_seed(2)
    expected = torch.rand(2)
    torch.manual_seed(2)
    make_trainer(digits, tmp_path, third).fit()
    assert torch.equal(torch.rand(2), expected)


def test_each_step_trains_its_own_parameters_alone(digits, tmp_path):
    method = Everything()
    trainer = make_trainer(digits, tmp_path, method, max_steps="2")
    before = copy.deepcopy(dict(method.named_parameters()))
    plan = trainer.batches.plan(seed=0, epoch=0)
    trainer._train_step(plan, 0, 0)
    changed = {name for name, value in method.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"factor.weight", "factor.bias"}
    student = copy.deepcopy(trainer.model.state_dict())
    distiller = trainer.distiller
    distiller.warm_up.done, distiller.training.done = distiller.warm_up.total, 1
    stage, batches = distiller._begin(trainer.batches.micro_batches(plan, 0))
    assert stage is distiller.training
    distiller._step_adversary(batches)
    changed = {name for name, value in method.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"factor.weight", "factor.bias", "adversary.weight", "adversary.bias"}
    for name, value in trainer.model.named_parameters():
        assert torch.equal(value, student[name])
        assert value.grad is None


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def uninterrupted(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    trainer = make_trainer(digits, folder, Everything(), ema="0.9")
    trainer.fit()
    return trainer


# The warm-up has 6 steps, training 9.
@pytest.mark.parametrize("saves", [2, 6, 7, 8, 9, 11, 15])
def test_every_part_continues_from_a_checkpoint_bit_for_bit(digits, tmp_path, saves, uninterrupted, monkeypatch):
    with monkeypatch.context() as patch:
        save, left = Trainer._save, iter(range(1, saves))

        def save_and_stop(self, log):
            save(self, log)
            if next(left, None) is None:
                raise Stopped

        patch.setattr(Trainer, "_save", save_and_stop)
        with pytest.raises(Stopped):
            make_trainer(digits, tmp_path, Everything(), ema="0.9", checkpoint_steps="1").fit()
    resumed = make_trainer(digits, tmp_path, Everything(), ema="0.9")
    resumed.fit()
    for name, value in uninterrupted._tensors().items():
        assert torch.equal(resumed._tensors()[name], value), name
    for name, value in uninterrupted.evaluated.state_dict().items():
        assert torch.equal(resumed.evaluated.state_dict()[name], value), name
    for kind in ("warm-up", "train", "test"):
        assert read_metrics(tmp_path, kind) == read_metrics(uninterrupted.folder, kind)


class Unreadable(Split):
    """A split that can be counted and nothing else."""

    def __init__(self, count):
        object.__setattr__(self, "count", count)

    def __len__(self):
        return self.count

    @property
    def images(self):
        raise AssertionError("a training image was read")

    @property
    def labels(self):
        raise AssertionError("a training label was read")


class FromNoise(Method):
    needs_teacher = False
    needs_images = False

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, student, teacher, batch):
        self.batches.append(batch)
        generator = torch.Generator().manual_seed(batch.seed)
        return {"loss": student(torch.rand(len(batch.x), 1, 8, 8, generator=generator)).square().mean()}


def test_a_method_without_images_reads_none(digits, tmp_path):
    method = FromNoise()
    result = make_trainer(digits, tmp_path, method, train=Unreadable(150), accumulate="2").fit()
    assert result["steps"] == 9
    assert [tuple(batch.x.shape) for batch in method.batches] == [(30, 0)] * 18
    assert all(batch.index is None and (batch.y == -1).all() for batch in method.batches)
    assert len({batch.seed for batch in method.batches}) == 18


def test_a_method_with_images_reads_them(digits, tmp_path):
    with pytest.raises(AssertionError, match="training image was read"):
        make_trainer(digits, tmp_path, CrossEntropy(), train=Unreadable(150)).fit()


def test_steps_in_an_epoch_may_be_given(digits, tmp_path):
    many = make_trainer(digits, tmp_path / "noise", FromNoise(), steps_per_epoch="7")
    assert many.fit()["steps"] == 21
    few = make_trainer(digits, tmp_path / "few", CrossEntropy(), steps_per_epoch="2")
    assert few.fit()["steps"] == 6
    with pytest.raises(ConfigError, match="steps_per_epoch: 4, expected at most 3: 150 training images"):
        make_trainer(digits, tmp_path / "many", CrossEntropy(), steps_per_epoch="4")
