"""Students and teachers in half precision, compiled, frozen: what methods see of them is float32."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from fastadv.attacks import freeze, pgd
from fastadv.distill import IGDM, KD, PGDAT, TALD, AdaAD, Batch, CrossEntropy
from fastadv.distill.parts.float32_output import CompileError, Float32Output
from fastadv.train.cli import main
from fastadv.train.config.train_config import resolve
from fastadv.train.data import datasets
from fastadv.train.data.splits import subset, to_pixels
from fastadv.train.loop import experiment
from fastadv.train.loop.experiment import build_classifier
from fastadv.train.loop.trainer import Trainer
from fastadv.train.runtime.errors import ConfigError


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


@pytest.fixture
def classifier(digits):
    config = resolve()
    return build_classifier(config.teacher, config, digits, seed=0)


@pytest.fixture
def pixels(digits):
    return to_pixels(digits.test.images[:8])


def test_the_network_computes_in_its_precision_and_shows_float32(classifier, pixels):
    seen = []
    classifier.network.stages[1][0].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    shown = Float32Output(classifier, autocast=torch.bfloat16)
    features = shown.with_features(pixels)
    assert seen == [torch.bfloat16]
    assert {each.dtype for each in tree_leaves(features)} == {torch.float32}
    assert shown(pixels).dtype is torch.float32
    assert torch.equal(shown(pixels), features.logits)
    torch.testing.assert_close(features.logits, classifier(pixels), atol=0.02, rtol=0)
    assert shown(pixels.clone().requires_grad_()).dtype is torch.bfloat16
    shown(pixels).sum().backward()
    assert all(parameter.grad.dtype is torch.float32 for parameter in classifier.parameters())


def test_an_attack_leaves_no_trace_behind_the_view(classifier, pixels):
    classifier.train()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    attacked = pgd(Float32Output(classifier, autocast=torch.bfloat16), pixels, eps=0.1, steps=2, seed=0)
    assert attacked.dtype is torch.float32
    assert all(module.training for module in classifier.modules())
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_a_frozen_teacher_shows_the_features_of_the_teacher(classifier, pixels, dtype, tolerance):
    classifier.eval()
    expected = classifier.with_features(pixels)
    frozen = freeze(classifier, dtype=dtype)
    assert len(frozen.folded) == 3
    pairs = zip(tree_leaves(Float32Output(frozen).with_features(pixels)), tree_leaves(expected), strict=True)
    for mine, theirs in pairs:
        assert mine.dtype is torch.float32
        torch.testing.assert_close(mine, theirs, atol=tolerance, rtol=0)


def test_a_frozen_network_without_features_says_so(pixels):
    with pytest.raises(AttributeError, match="with_features"):
        Float32Output(freeze(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))).with_features(pixels)


def train(digits, folder, method, **flags):
    flags = {"epochs": "8", "batch_size": "50", "tensorboard": False, "lr": "0.1", "eval_steps": "2", **flags}
    config = resolve(flags=flags)
    trainer = Trainer(
        model=build_classifier(config.student, config, digits, seed=0),
        method=method,
        teacher=None,
        train=subset(digits.train, 500, seed=0),
        test=digits.test,
        config=config,
        seed=0,
        folder=folder,
        label="test",
    )
    return trainer, trainer.fit()


def test_training_in_bfloat16_ends_near_training_in_float32(digits, tmp_path):
    full, expected = train(digits, tmp_path / "full", CrossEntropy())
    half, found = train(digits, tmp_path / "half", CrossEntropy(), precision="bfloat16")
    assert expected["clean"] > 0.85
    assert found["clean"] == pytest.approx(expected["clean"], abs=0.04)
    difference = max(
        (a - b).abs().max().item() for a, b in zip(full.model.parameters(), half.model.parameters(), strict=True)
    )
    assert 1e-4 < difference < 0.5
    assert all(parameter.dtype is torch.float32 for parameter in half.model.parameters())


def test_float16_is_refused_where_it_cannot_be_trained():
    with pytest.raises(ConfigError, match="precision: 'float16' on 'cpu', expected bfloat16 or float32"):
        resolve(flags={"precision": "float16"})
    with pytest.raises(ConfigError, match="teacher_precision: 'bfloat16', expected freeze_teacher"):
        resolve(flags={"teacher_precision": "bfloat16"})


def test_a_run_says_how_far_its_frozen_teacher_is_from_the_teacher(tmp_path):
    arguments = ["--methods=tald", "--seeds=0", "--teacher-epochs=1", "--student-samples=50", "--epochs=1"]
    options = ["--eval-steps=1", "--no-tensorboard", "--freeze-teacher", "--teacher-precision=bfloat16"]
    assert main(["train", "--run-dir", str(tmp_path), *arguments, *options]) == 0
    fact = json.loads((tmp_path / "origin.json").read_text())["Frozen teacher"]
    assert fact.startswith("bfloat16, 3 BatchNorms folded; logits within 0.0")
    assert fact in (tmp_path / "report.md").read_text()


class Branching(nn.Module):
    """Cannot be one graph: what it does depends on a value."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x) if x.sum() > 0 else -self.network(x)


def test_a_network_that_cannot_be_compiled_is_named(classifier, pixels):
    with pytest.raises(CompileError, match=r"compile: True, but torch\.compile fails on the network: "):
        Float32Output(Branching(classifier), compiled=True)(pixels)


def test_a_compiled_student_computes_what_the_eager_one_does(classifier, pixels, graphs):
    shown = Float32Output(classifier.eval(), compiled=True)
    batch = Batch(pixels, torch.arange(8), seed=1, progress=0.0)
    for method in (KD(), TALD(steps=1, eps=0.1)):
        teacher = classifier.requires_grad_(False)
        torch.testing.assert_close(method(shown, teacher, batch)["loss"], method(classifier, teacher, batch)["loss"])
    torch.testing.assert_close(shown.with_features(pixels).embedding, classifier.with_features(pixels).embedding)
    assert 2 <= len(graphs) <= 4


@pytest.mark.parametrize("compiles", [False, True])
def test_a_student_is_compiled_where_it_is_told(digits, tmp_path, graphs, compiles):
    train(digits, tmp_path, CrossEntropy(), compile=compiles, epochs="1", max_steps="1", eval_steps="1")
    assert bool(graphs) == compiles


def compiled_copy(classifier):
    method = PGDAT(attack_mode="frozen")
    method.build(classifier, None, torch.empty(0), images=8)
    method.compile_copies()
    return method.copies[0]


@pytest.mark.parametrize("compiled", [lambda network: Float32Output(network, compiled=True), compiled_copy])
def test_more_shapes_are_compiled_than_torch_would_for_a_function(compiled, classifier, pixels, graphs):
    network = compiled(classifier.eval())
    sizes = range(1, 2 + torch._dynamo.config.recompile_limit)
    for size in sizes:
        x = pixels[:1].repeat(size, 1, 1, 1)
        torch.testing.assert_close(network(x), classifier(x))
    assert len(graphs) == len(sizes)


@pytest.mark.parametrize("method", [PGDAT, lambda **mode: IGDM(AdaAD(**mode), alpha=1)])
def test_the_copies_that_are_attacked_are_compiled(method, classifier, pixels, graphs):
    losses = []
    for compiles in (False, True):
        student, teacher = copy.deepcopy(classifier), copy.deepcopy(classifier).eval().requires_grad_(False)
        made = method(attack_mode="frozen", steps=2)
        made.build(student, teacher, pixels, images=8)
        if compiles:
            made.compile_copies()
        losses.append(made(student.train(), teacher, Batch(pixels, torch.arange(8), seed=1, progress=0.5))["loss"])
        assert bool(graphs) == compiles
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize(("flags", "compiled"), [("--compile", True), ("--compile --capture", False), ("", False)])
def test_a_run_compiles_what_its_attacks_see_unless_they_are_captured(flags, compiled, tmp_path, monkeypatch, graphs):
    teachers, methods = [], []

    class Watched(Float32Output):
        def __init__(self, network, **options):
            teachers.append(options["compiled"])
            super().__init__(network, **options)

    monkeypatch.setattr(experiment, "Float32Output", Watched)
    monkeypatch.setattr(PGDAT, "compile_copies", lambda method: methods.append(method))
    arguments = ["--methods=kd,pgd-at", "--seeds=0", "--teacher-epochs=1", "--student-samples=50", "--epochs=1"]
    arguments += ["--eval-steps=1", "--no-tensorboard", "--freeze-teacher", *flags.split()]
    assert main(["train", "--run-dir", str(tmp_path), *arguments]) == 0
    assert (teachers, len(methods)) == ([compiled], int(compiled))
