"""The networks of a run: a teacher, one student per seed and method. What is finished is not done again."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastadv.attacks import CaptureError, freeze
from fastadv.attacks.captured import why_eager
from fastadv.distill.parts.float32_output import DTYPES, CompileError, Float32Output
from fastadv.distill.parts.seeding import derive_seed
from fastadv.train.config.attacks import ENSEMBLE
from fastadv.train.config.methods import MethodSpec, label_specs
from fastadv.train.config.run_folder import add_fact, student_folder
from fastadv.train.config.train_config import Config
from fastadv.train.data import datasets
from fastadv.train.data.splits import Dataset, subset, to_pixels
from fastadv.train.loop.batches import Batches
from fastadv.train.loop.evaluation import evaluate
from fastadv.train.loop.trainer import Trainer
from fastadv.train.networks import catalogue
from fastadv.train.networks.classifier import Classifier, Normalize, check_fit
from fastadv.train.networks.weights import load_weights
from fastadv.train.runtime.errors import ConfigError, TrainError
from fastadv.train.runtime.files import write_atomically
from fastadv.train.runtime.metrics import tensorboard_installed
from fastadv.train.runtime.processes import Processes

TEACHER_SEED = 0


class Prepared(NamedTuple):
    """A validated run: its data, and what was loaded or found of its networks and methods."""

    config: Config
    dataset: Dataset
    teacher: Classifier | None
    standard: nn.Module | None
    attacking: list[str]


def prepare_experiment(config: Config) -> Prepared:
    """Load the data and the checkpoints, and build every network and method once. Creates nothing.

    Raises ConfigError, DataError, CheckpointError and MissingExtraError.
    """
    if config.tensorboard and not tensorboard_installed():
        print("TensorBoard is not installed: the metrics go to metrics.jsonl alone", flush=True)
        config = config.replaced(tensorboard=False)
    dataset = datasets.load(
        config.data,
        data_dir=config.data_dir,
        image_size=config.image_size,
        grayscale=config.grayscale,
        device=config.device,
    )
    if config.eval_attack not in ("pgd", ENSEMBLE) and Processes().count > 1:
        raise ConfigError(f"eval_attack: {config.eval_attack!r} runs in one process, expected pgd or {ENSEMBLE}")
    attacking = _check_students(config, dataset)
    standard = _loaded(config, dataset, config.standard_teacher_checkpoint)
    teacher = _loaded(config, dataset, config.teacher_checkpoint) if config.needs_teacher else None
    return Prepared(config, dataset, teacher, standard, attacking)


def run_experiment(prepared: Prepared, folder: Path) -> nn.Module | None:
    """Train what is left to train in `folder`, together with this run's other processes; return the teacher.

    Raises what :meth:`Trainer.fit` raises, and ConfigError.
    """
    config, dataset, loaded, _, attacking = prepared
    specs = config.specs
    labels = label_specs(specs)
    if config.capture:
        _say_what_is_captured(config, attacking, folder)
    teacher = _obtain_teacher(config, dataset, loaded, folder / "teacher") if config.needs_teacher else None
    shown: nn.Module | None = teacher
    if teacher is not None and config.freeze_teacher:
        shown = _frozen(teacher, config, dataset, folder)
    for seed in config.seeds:
        for spec in specs:
            _train_student(prepared, shown, spec, labels[spec.name], seed, folder)
    return teacher


def build_classifier(name: str, config: Config, dataset: Dataset, *, seed: int, field: str = "network") -> Classifier:
    """The network `name` behind the dataset's normalisation, initialised from `seed`, on the configured device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights", name))
        network = catalogue.build(
            name, num_classes=len(dataset.class_names), image_shape=dataset.image_shape, field=field
        )
    classifier = Classifier(Normalize(dataset.mean, dataset.std), network).to(config.device)
    if config.channels_last:
        torch.nn.utils.convert_conv2d_weight_memory_format(classifier, torch.channels_last)
    return classifier


def _check_students(config: Config, dataset: Dataset) -> list[str]:
    """Run both networks, and build every method and its batches once, on untrained networks.

    Returns the names of the specs whose methods attack a network.

    Raises ConfigError for the first that is refused: here, and not when the teacher and all before it are trained.
    """
    labels = label_specs(config.specs)
    train = subset(dataset.train, config.student_samples, seed=0)
    x = torch.zeros(2, *dataset.image_shape, device=config.device)
    attacking: list[str] = []
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # Warnings of a teacher that is not trained yet mean nothing.
        warnings.simplefilter("ignore")
        student = _fitting("student", config.student, config, dataset, x)
        teacher = _fitting("teacher", config.teacher, config, dataset, x) if config.needs_teacher else None
        standard = None if config.standard_teacher_checkpoint is None else teacher
        for spec in config.specs:
            with _as_config_error(labels[spec.name]):
                method = spec.build(standard_teacher=standard).to(config.device)
                method.build(student, teacher, x, images=len(x))
            batches = Batches(train, config, Processes(), images=method.needs_images, device=x.device)
            if batches.smallest == 1:
                _check_one_image(config.student, student, x[:1])
            if any(part.ascent is not None for part in method.parts()):
                attacking.append(spec.name)
    return attacking


def _check_one_image(name: str, student: nn.Module, x: Tensor) -> None:
    """Raise ConfigError where the network cannot be trained on a batch of one image, the last of an epoch."""
    try:
        with torch.no_grad():
            student.train()(x)
    except ValueError as error:  # BatchNorm of one value a channel
        raise ConfigError(
            f"batch_size: the last batch of an epoch has 1 image, on which {name} cannot be trained ({error}); "
            "choose another batch_size, or steps_per_epoch one less"
        ) from error


def _fitting(field: str, name: str, config: Config, dataset: Dataset, x: Tensor) -> Classifier:
    """Build the untrained network `name`. Raises ConfigError naming `field` where it does not make logits of `x`."""
    classifier = build_classifier(name, config, dataset, seed=0, field=field)
    check_fit(field, name, classifier.train(), x, len(dataset.class_names))
    return classifier


def _loaded(config: Config, dataset: Dataset, checkpoint: Path | None) -> Classifier | None:
    """Return a teacher with the weights of ``checkpoint``, in evaluation mode; None where there is none."""
    if checkpoint is None:
        return None
    teacher = build_classifier(config.teacher, config, dataset, seed=TEACHER_SEED)
    load_weights(teacher.network, checkpoint, name=config.teacher)
    return teacher.eval().requires_grad_(False)


def _obtain_teacher(config: Config, dataset: Dataset, loaded: Classifier | None, folder: Path) -> nn.Module:
    """Return the teacher, loaded or trained, in evaluation mode, without parameter gradients."""
    processes = Processes()
    finished = processes.broadcast_from_rank0((folder / "result.json").is_file)
    if loaded is not None:
        if not finished:
            result = json.dumps(evaluate(loaded, dataset.test, config))
            if processes.first:
                folder.mkdir(exist_ok=True)
                write_atomically(folder / "result.json", lambda file: file.write(result.encode()))
        return loaded
    if finished:
        again = _loaded(config, dataset, folder / "weights.pt")
        assert again is not None
        return again
    label = f"teacher {config.teacher}"
    with _as_config_error(label):
        trainer = Trainer(
            model=build_classifier(config.teacher, config, dataset, seed=TEACHER_SEED),
            method=config.spec(config.teacher_method).build().to(config.device),
            teacher=None,
            train=dataset.train,
            test=dataset.test,
            config=config.replaced(
                epochs=config.teacher_epochs,
                steps_per_epoch=None,
                max_steps=None,
                ema=config.teacher_ema or config.ema,
            ),
            seed=TEACHER_SEED,
            folder=folder,
            label=label,
        )
        trainer.fit()
    # What counts, and what a resumed run loads.
    return trainer.evaluated.eval().requires_grad_(False)


def _frozen(teacher: nn.Module, config: Config, dataset: Dataset, folder: Path) -> nn.Module:
    """Copy the teacher to be attacked; the distance of its logits from the teacher's goes to origin.json."""
    frozen = freeze(teacher, dtype=DTYPES[config.teacher_precision])
    x = to_pixels(dataset.test.images[: config.eval_batch_size], channels_last=config.channels_last)
    fact = (
        f"{config.teacher_precision}, {len(frozen.folded)} BatchNorms folded; logits within "
        f"{frozen.difference(x).item():.2g} of the teacher's on {len(x)} test images"
    )
    print(f"frozen teacher: {fact}", flush=True)
    if Processes().first:
        add_fact(folder, "Frozen teacher", fact)
    return Float32Output(frozen)


def _say_what_is_captured(config: Config, attacking: list[str], folder: Path) -> None:
    """Print which attacks are CUDA graphs, or why none is, and add it to origin.json."""
    if (
        config.teacher_checkpoint is None
        and config.needs_teacher
        and config.spec(config.teacher_method).claims("attacks")
    ):
        attacking = [config.teacher_method, *attacking]
    eager = why_eager(torch.device(config.device))
    names = ", ".join(dict.fromkeys(attacking))
    fact = f"the attacks of {names} " + ("are CUDA graphs" if eager is None else f"run eagerly: {eager}")
    print(f"capture: {fact}", flush=True)
    if Processes().first:
        add_fact(folder, "Capture", fact)


def _train_student(
    prepared: Prepared, teacher: nn.Module | None, spec: MethodSpec, label: str, seed: int, folder: Path
) -> None:
    """Train one student, unless it is finished. The methods share a seed's initial weights, images and order."""
    config, dataset = prepared.config, prepared.dataset
    own_folder = student_folder(folder, spec.name, seed)
    if Processes().broadcast_from_rank0(lambda: _finished(own_folder, config)):
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "method", spec.name))
        method = spec.build(standard_teacher=prepared.standard).to(config.device)
    label = f"{label}, seed {seed}"
    with _as_config_error(label):
        result = Trainer(
            model=build_classifier(config.student, config, dataset, seed=seed),
            method=method,
            teacher=teacher,
            train=subset(dataset.train, config.student_samples, seed=seed),
            test=dataset.test,
            config=config,
            seed=seed,
            folder=own_folder,
            label=label,
        ).fit()
    print(f"{label}: clean {result['clean']:.2%}, under PGD {result['pgd']:.2%}", flush=True)


def _finished(folder: Path, config: Config) -> bool:
    """Return whether a student is trained, and for as many epochs as the run has by now."""
    try:
        result = json.loads((folder / "result.json").read_text())
    except FileNotFoundError:
        return False
    # Results of earlier versions have no "epochs": their number could not grow.
    return result.get("epochs", config.epochs) >= config.epochs


@contextmanager
def _as_config_error(label: str) -> Iterator[None]:
    """Raise as a ConfigError what a method refuses, of its options or networks, only once it runs."""
    try:
        yield
    except TrainError:
        raise
    except (TypeError, ValueError, CaptureError, CompileError) as error:
        raise ConfigError(f"{label}: {error}") from error
