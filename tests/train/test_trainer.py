import copy

import pytest
import torch

from fastadv.distill import KD, PGDAT, TALD, CrossEntropy, Method
from fastadv.train.config.train_config import resolve
from fastadv.train.data import datasets
from fastadv.train.data.splits import subset
from fastadv.train.loop.experiment import build_classifier
from fastadv.train.loop.trainer import Trainer
from fastadv.train.runtime.errors import CheckpointError, ConfigError, DivergenceError
from fastadv.train.runtime.metrics import read_metrics


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def make_trainer(digits, folder, method, teacher=None, **flags):
    config = resolve(flags={"epochs": "4", "batch_size": "60", "tensorboard": False, "log_steps": "3", **flags})
    return Trainer(
        model=build_classifier(config.student, config, digits, seed=0),
        method=method,
        teacher=teacher,
        train=subset(digits.train, 150, seed=0),
        test=digits.test,
        config=config,
        seed=0,
        folder=folder,
        label="test",
    )


class Recorder(Method):
    """Cross-entropy with a scale of its own, which writes down what it is given."""

    needs_teacher = False

    def __init__(self):
        super().__init__()
        self.log_scale = torch.nn.Parameter(torch.zeros(()))
        self.calls = []

    def forward(self, student, teacher, batch):
        self.calls.append(batch)
        loss = torch.nn.functional.cross_entropy(student(batch.x), batch.y)
        return {"loss": loss * self.log_scale.exp() + self.log_scale.square()}


def test_a_method_sees_pixels_labels_progress_and_a_seed_of_its_own(digits, tmp_path):
    method = Recorder()
    result = make_trainer(digits, tmp_path, method).fit()
    assert result["steps"] == len(method.calls) == 12
    assert [len(batch.y) for batch in method.calls] == [60, 60, 30] * 4
    assert [batch.progress for batch in method.calls] == [step / 12 for step in range(12)]
    assert len({batch.seed for batch in method.calls}) == 12
    for batch in method.calls:
        assert batch.x.dtype == torch.float32
        assert batch.x.min() >= 0
        assert batch.x.max() <= 1
        assert len(batch.x) == len(batch.y)
    assert method.log_scale.item() != 0, "a method's own parameters are trained"


def test_the_loss_falls_and_the_rate_follows_the_schedule(digits, tmp_path):
    flags = {"epochs": "10", "schedule": "step", "milestones": "4,8", "lr": "0.1"}
    make_trainer(digits, tmp_path, CrossEntropy(), **flags).fit()
    rows = read_metrics(tmp_path, "train")
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert [row["lr"] for row in rows] == pytest.approx([0.1] * 4 + [0.01] * 4 + [0.001] * 2)


def test_max_steps_ends_inside_an_epoch(digits, tmp_path):
    result = make_trainer(digits, tmp_path, CrossEntropy(), max_steps="5").fit()
    assert result["steps"] == 5
    assert [row["step"] for row in read_metrics(tmp_path, "train")] == [3, 5]


def test_a_diverging_loss_stops_the_run(digits, tmp_path):
    class Diverging(Recorder):
        def forward(self, student, teacher, batch):
            return {"loss": super().forward(student, teacher, batch)["loss"] * float("inf")}

    with pytest.raises(DivergenceError, match=r"up to step 3 is (inf|nan)"):
        make_trainer(digits, tmp_path, Diverging()).fit()


def test_a_student_that_diverges_under_attack_stops_the_run(digits, tmp_path):
    """The attack of the next step looks at its weights before the log looks at the loss."""

    def spoil(parameter):
        parameter.grad.fill_(float("nan"))

    trainer = make_trainer(digits, tmp_path, PGDAT(steps=1))
    next(trainer.model.network.parameters()).register_post_accumulate_grad_hook(spoil)
    with pytest.raises(
        DivergenceError, match=r"test: after step 1, model must be finite, .* its parameter .*try a lower"
    ):
        trainer.fit()


@pytest.mark.parametrize("method", [KD, TALD])
def test_a_teacher_that_is_not_finite_is_named(digits, tmp_path, method):
    teacher = copy.deepcopy(make_trainer(digits, tmp_path, CrossEntropy()).model)
    next(teacher.parameters()).data[0] = torch.nan
    trainer = make_trainer(digits, tmp_path, method(), teacher)
    with pytest.raises(DivergenceError, match="; the teacher is not finite in its parameter "):
        trainer.fit()


def test_a_checkpoint_of_another_layout_is_refused(digits, tmp_path):
    make_trainer(digits, tmp_path, CrossEntropy(), max_steps="1").fit()
    trainer = make_trainer(digits, tmp_path, CrossEntropy())
    content = trainer.checkpoints.load_newest(device="cpu", warn=pytest.fail)
    del content["distiller"]
    trainer.checkpoints.save(2, content)
    with pytest.raises(CheckpointError, match="no distiller in the newest checkpoint, which another version"):
        trainer.fit()


def test_training_leaves_the_global_generator_alone(digits, tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    make_trainer(digits, tmp_path, CrossEntropy(), max_steps="2").fit()
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("optimizer", ["AdamW", "RMSprop"])
def test_another_optimizer_trains_and_continues_bit_for_bit(digits, tmp_path, optimizer):
    flags = {"optimizer": optimizer, "lr": "0.003", "weight_decay": "0.01"}
    whole = make_trainer(digits, tmp_path / "whole", CrossEntropy(), **flags)
    assert type(whole.distiller.optimizer) is getattr(torch.optim, optimizer)
    found = whole.fit()
    assert found["clean"] > 0.2  # of ten classes, after twelve steps
    rows = read_metrics(tmp_path / "whole", "train")
    assert rows[-1]["loss"] < rows[0]["loss"]
    cut = make_trainer(digits, tmp_path / "cut", CrossEntropy(), **flags, checkpoint_steps="5")
    save, cut._save = cut._save, lambda log: (save(log), cut.step == 5 and (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        cut.fit()
    again = make_trainer(digits, tmp_path / "cut", CrossEntropy(), **flags)
    again.fit()
    for mine, theirs in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"optimizer": "adamw"}, "optimizer: 'adamw', did you mean AdamW"),
        ({"optimizer": "LBFGS"}, "optimizer: 'LBFGS', expected one of ASGD, Adadelta"),
        ({"optimizer": "AdamW", "nesterov": True}, "nesterov: True, expected no with AdamW"),
    ],
)
def test_an_optimizer_that_cannot_be_is_named(flags, message):
    with pytest.raises(ConfigError, match=message):
        resolve(flags=flags)
