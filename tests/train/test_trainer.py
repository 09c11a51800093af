import copy

import pytest
import torch

from fastadv.distill import KD, PGDAT, TALD, CrossEntropy, Method
from fastadv.train.config.train_config import resolve
from fastadv.train.data import datasets
from fastadv.train.data.splits import Stored, from_stored, subset
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


def test_sgd_is_as_the_flags_say(digits, tmp_path):
    def options(**flags):
        group = make_trainer(digits, tmp_path, CrossEntropy(), **flags).distiller.optimizer.param_groups[0]
        return {name: group[name] for name in ("lr", "momentum", "nesterov", "weight_decay")}

    told = {"lr": 0.3, "momentum": 0.7, "nesterov": True, "weight_decay": 0.02}
    assert options(**told) == told
    assert options(**told | {"nesterov": False}) == told | {"nesterov": False}


@pytest.mark.parametrize("clip_norm", [None, 0.01])
def test_a_step_is_no_longer_than_its_clipped_gradient(digits, tmp_path, clip_norm):
    plain = {"lr": 1, "momentum": 0, "weight_decay": 0, "max_steps": 1, "eval_steps": 1}
    trainer = make_trainer(digits, tmp_path, CrossEntropy(), **plain, clip_norm=clip_norm)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.fit()
    moved = [now.detach() - then for now, then in zip(trainer.model.parameters(), before, strict=True)]
    length = torch.cat([each.flatten() for each in moved]).norm().item()
    assert length > 0.1 if clip_norm is None else length == pytest.approx(clip_norm, rel=1e-3)


@pytest.mark.parametrize("channels_last", [False, True])
def test_images_and_weights_lie_as_told(tmp_path, channels_last):
    """In training, mixed or not, and in evaluation."""
    generator = torch.Generator().manual_seed(0)
    images = {name: torch.randint(256, (150, 3, 8, 8), generator=generator).byte() for name in ("train", "test")}
    stored = {name: (each.numpy(), torch.arange(150).numpy() % 3) for name, each in images.items()}
    colours = from_stored(Stored(stored, ("one", "two", "three")))
    for mixup in (None, "0.4"):
        flags = {"student": "resnet8", "batch_size": "20", "max_steps": "2", "eval_steps": "1", "mixup": mixup}
        trainer = make_trainer(colours, tmp_path / f"{mixup}", CrossEntropy(), channels_last=channels_last, **flags)
        seen = []
        trainer.model.register_forward_pre_hook(lambda module, args, seen=seen: seen.append((module.training, args[0])))
        trainer.fit()
        assert {training for training, _ in seen} == {True, False}
        weights = [module.weight for module in trainer.model.modules() if isinstance(module, torch.nn.Conv2d)]
        for each in [x for _, x in seen] + [weight for weight in weights if weight.shape[2] > 1]:
            assert each.is_contiguous(memory_format=torch.channels_last) == channels_last


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


def recorded(digits, folder, **flags):
    method = Recorder()
    make_trainer(digits, folder, method, epochs="2", **flags).fit()
    return method.calls


def test_mixup_mixes_the_first_with_the_last_by_a_share_of_each_step(digits, tmp_path):
    clean = recorded(digits, tmp_path / "clean")
    mixed = recorded(digits, tmp_path / "mixed", mixup="0.4", label_smoothing="0.1")
    shares = []
    for whole, batch in zip(clean, mixed, strict=True):
        assert (whole.mixed, whole.label_smoothing, batch.label_smoothing) == (None, 0.0, 0.1)
        classes, share = batch.mixed
        torch.testing.assert_close(batch.x, share * whole.x + (1 - share) * whole.x.flip(0))
        assert torch.equal(batch.y, whole.y)
        assert torch.equal(classes, whole.y.flip(0))
        shares.append(share)
    assert len(set(shares)) == len(shares) == 6
    parts = recorded(digits, tmp_path / "parts", mixup="0.4", accumulate="3")
    assert [batch.mixed[1] for batch in parts[::3]] == shares
    torch.testing.assert_close(torch.cat([batch.x for batch in parts[:3]]), mixed[0].x)
    assert torch.equal(torch.cat([batch.mixed[0] for batch in parts[:3]]), mixed[0].mixed[0])


def test_the_share_of_mixup_is_beta_distributed(digits, tmp_path):
    """Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)), over 400 steps."""
    method = Recorder()
    flags = {"student_samples": "20", "batch_size": "20", "mixup": "2", "eval_samples": "10", "eval_epochs": "400"}
    make_trainer(digits, tmp_path, method, epochs="58", checkpoint_epochs="400", **flags).fit()
    shares = torch.tensor([batch.mixed[1] for batch in method.calls], dtype=torch.float64)
    assert len(shares) == 464
    assert shares.mean().item() == pytest.approx(0.5, abs=4 * 0.224 / 464**0.5)
    assert shares.var().item() == pytest.approx(1 / 20, rel=0.25)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"label_smoothing": "0.1", "methods": "ce,rslad"}, "label_smoothing: 0.1, but rslad has no cross-entropy of"),
        ({"label_smoothing": "0.1", "methods": "ard"}, "label_smoothing: 0.1, but ard has no cross-entropy of labels"),
        ({"mixup": "0.2", "methods": "kd,tald"}, "mixup: 0.2, but tald looks at each single image's class or number"),
        ({"mixup": "0.2", "methods": "kd", "teacher_method": "pgd-at"}, "mixup: 0.2, but pgd-at looks at each single"),
        ({"mixup": "0"}, "mixup: 0.0, expected more than 0"),
        ({"label_smoothing": "1.1"}, "label_smoothing: 1.1, expected at most 1"),
    ],
)
def test_what_cannot_be_smoothed_or_mixed_is_named(flags, message):
    with pytest.raises(ConfigError, match=message):
        resolve(flags=flags).check_used()


@pytest.mark.parametrize(
    "flags",
    [
        {"label_smoothing": "0.1", "methods": "ce,kd,tald,ard", "options": ["ard.alpha=0.5"]},
        {"mixup": "0.2", "methods": "ce,kd,fitnet", "label_smoothing": "0.1"},
        {"mixup": "0.2", "methods": "kd", "teacher_method": "pgd-at", "teacher_checkpoint": "there.pt"},
    ],
)
def test_what_can_be_smoothed_or_mixed_is_taken(flags):
    resolve(flags=flags).check_used()
