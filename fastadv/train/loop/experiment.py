"""The networks of a run: a teacher, one student per seed and method. What is finished is not done again."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import nn

from fastadv.attacks import CaptureError, freeze
from fastadv.attacks.captured import why_eager
from fastadv.distill.parts.float32_output import DTYPES, CompileError, Float32Output
from fastadv.distill.parts.seeding import derive_seed
from fastadv.train.config.attacks import ENSEMBLE
from fastadv.train.config.methods import MethodSpec, label_specs
from fastadv.train.config.run_folder import add_fact, student_folder, student_result
from fastadv.train.config.train_config import Config
from fastadv.train.data.datasets import image_facts
from fastadv.train.data.splits import Dataset, subset, to_pixels
from fastadv.train.loop.batches import Batches
from fastadv.train.loop.evaluation import evaluate
from fastadv.train.loop.trainer import Trainer
from fastadv.train.networks import catalogue
from fastadv.train.networks.classifier import Classifier, check_fit
from fastadv.train.networks.weights import load_weights
from fastadv.train.runtime.errors import ConfigError, DivergenceError, MissingExtraError, TrainError
from fastadv.train.runtime.files import write_text
from fastadv.train.runtime.imports import require
from fastadv.train.runtime.processes import Processes
from fastadv.train.runtime.seeded import seeded

# No student has it, as seeds are not negative: of two that are the same network, the student of that seed would start
# from its teacher's first weights, see its images in its order, and with plain training be the teacher.
TEACHER_SEED = -1


class Experiment:
    """A validated run: its data, what was loaded of its networks, and each of its networks and methods built once.

    dataset: what it trains and tests on. images: the lines of origin.json that identify it. diverged: why students have
    no result.

    Creates no file. Raises ConfigError, DataError, CheckpointError and MissingExtraError.
    """

    def __init__(self, config: Config) -> None:
        if config.tensorboard:
            try:
                require("torch.utils.tensorboard", "--tensorboard")
            except MissingExtraError:
                print("TensorBoard is not installed: the metrics go to metrics.jsonl alone", flush=True)
                config = config.replaced(tensorboard=False)
        self.config, self._processes = config, Processes()
        self.dataset = config.load_data(config.device)
        self._labels = label_specs(config.specs, config.options)
        self.diverged: list[str] = []
        if config.eval_attack not in ("pgd", ENSEMBLE) and self._processes.count > 1:
            raise ConfigError(f"eval_attack: {config.eval_attack!r} runs in one process, expected pgd or {ENSEMBLE}")
        self.images = image_facts(config.data, train=self.dataset.train, test=self.dataset.test)
        if self._processes.differing_facts({"data": self.images}, device=config.device):
            raise ConfigError(f"data: {config.data!r} gives other images in each of {self._processes.count} processes")
        self._check_students()
        standard, teacher = config.standard_teacher_checkpoint, config.teacher_checkpoint
        self._standard = None if standard is None else self._load_teacher(standard)
        self._loaded = None if teacher is None or not config.needs_teacher else self._load_teacher(teacher)

    def run(self, folder: Path) -> nn.Module | None:
        """Train what is left to train in `folder`, together with this run's other processes; return the teacher.

        A student that diverges leaves its message in ``diverged``, and the others are trained all the same.

        Raises what :meth:`Trainer.fit` raises, and ConfigError; DivergenceError where no student has a result, and at
        once where there are several processes, of which one alone may have seen it.
        """
        config = self.config
        if config.capture:
            parts = {spec.name: spec.build().parts() for spec in config.all_specs}
            attacking = [name for name in parts if any(part.ascent is not None for part in parts[name])]
            eager = why_eager(torch.device(config.device))
            outcome = "are CUDA graphs" if eager is None else f"run eagerly: {eager}"
            self._note(folder, "Capture", f"the attacks of {', '.join(attacking)} {outcome}")
        teacher = self._obtain_teacher(folder / "teacher") if config.needs_teacher else None
        seen = teacher
        if teacher is not None and config.freeze_teacher:
            frozen = freeze(teacher, dtype=DTYPES[config.teacher_precision])
            x = to_pixels(self.dataset.test.images[: config.eval_batch_size], channels_last=config.channels_last)
            fact = (
                f"{config.teacher_precision}, {len(frozen.folded)} BatchNorms folded; logits within "
                f"{frozen.difference(x).item():.2g} of the teacher's on {len(x)} test images"
            )
            self._note(folder, "Frozen teacher", fact)
            seen = Float32Output(frozen, compiled=config.compile and not config.capture)
        for seed in config.seeds:
            for spec in config.specs:
                try:
                    self._train_student(seen, spec, seed, folder)
                except DivergenceError as error:
                    if self._processes.count > 1:
                        raise
                    print(error, flush=True)
                    self.diverged.append(str(error))
        if len(self.diverged) == len(config.seeds) * len(config.specs):
            raise DivergenceError("; ".join(self.diverged))
        return teacher

    def _check_students(self) -> None:
        """Run both networks, and build every method and its batches once, on untrained networks.

        Raises ConfigError for the first that is refused: here, and not when the teacher and all before it are trained.
        """
        config = self.config
        train = subset(self.dataset.train, config.student_samples, seed=0)
        x = torch.zeros(2, *self.dataset.image_shape, device=config.device)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # Warnings of a teacher that is not trained yet mean nothing.
            warnings.simplefilter("ignore")
            networks = {}
            for field in ("student", "teacher") if config.needs_teacher else ("student",):
                name = getattr(config, field)
                networks[field] = build_classifier(name, config, self.dataset, seed=0, field=field).train()
                check_fit(field, name, networks[field], x, len(self.dataset.class_names))
            student, teacher = networks["student"], networks.get("teacher")
            standard = None if config.standard_teacher_checkpoint is None else teacher
            for spec in config.specs:
                with _as_config_error(self._labels[spec.name]):
                    method = spec.build(standard_teacher=standard).to(config.device)
                    method.build(student, teacher, x, images=len(x))
                batches = Batches(train, config, self._processes, images=method.needs_images, device=x.device)
                if batches.smallest == 1:
                    try:
                        with torch.no_grad():
                            student.train()(x[:1])
                    except ValueError as error:  # BatchNorm of one value a channel
                        raise ConfigError(
                            f"batch_size: the last batch of an epoch has 1 image, on which {config.student} cannot be "
                            f"trained ({error}); choose another batch_size, or steps_per_epoch one less"
                        ) from error

    def _load_teacher(self, checkpoint: Path) -> Classifier:
        """Return a teacher with the weights of ``checkpoint``, in evaluation mode."""
        teacher = build_classifier(self.config.teacher, self.config, self.dataset, seed=TEACHER_SEED)
        load_weights(teacher.network, checkpoint, name=self.config.teacher)
        return teacher.eval().requires_grad_(False)

    def _obtain_teacher(self, folder: Path) -> nn.Module:
        """Return the teacher, loaded or trained, in evaluation mode, without parameter gradients."""
        config, dataset = self.config, self.dataset
        finished = self._processes.broadcast_from_rank0((folder / "result.json").is_file)
        if self._loaded is not None:
            if not finished:
                result = json.dumps(evaluate(self._loaded, dataset.test, config))
                if self._processes.first:
                    folder.mkdir(exist_ok=True)
                    write_text(folder / "result.json", result)
            return self._loaded
        if finished:
            return self._load_teacher(folder / "weights.pt")
        label = f"teacher {config.teacher}"
        with _as_config_error(label):
            trainer = Trainer(
                model=build_classifier(config.teacher, config, dataset, seed=TEACHER_SEED),
                method=config.teacher_spec.build().to(config.device),
                teacher=None,
                train=dataset.train,
                test=dataset.test,
                config=config.of_teacher,
                seed=TEACHER_SEED,
                folder=folder,
                label=label,
            )
            trainer.fit()
        # What counts, and what a resumed run loads.
        return trainer.evaluated.eval().requires_grad_(False)

    def _train_student(self, teacher: nn.Module | None, spec: MethodSpec, seed: int, folder: Path) -> None:
        """Train one student, unless it is finished. The methods share a seed's initial weights, images and order."""
        config, dataset = self.config, self.dataset
        found = partial(student_result, folder, spec.name, seed, epochs=config.epochs)
        if self._processes.broadcast_from_rank0(found) is not None:
            return
        with seeded(derive_seed(seed, "method", spec.name)):
            method = spec.build(standard_teacher=self._standard).to(config.device)
        label = f"{self._labels[spec.name]}, seed {seed}"
        with _as_config_error(label):
            result = Trainer(
                model=build_classifier(config.student, config, dataset, seed=seed),
                method=method,
                teacher=teacher,
                train=subset(dataset.train, config.student_samples, seed=seed),
                test=dataset.test,
                config=config,
                seed=seed,
                folder=student_folder(folder, spec.name, seed),
                label=label,
            ).fit()
        print(f"{label}: clean {result['clean']:.2%}, under PGD {result['pgd']:.2%}", flush=True)

    def _note(self, folder: Path, name: str, fact: str) -> None:
        """Print a fact about the run and add it to origin.json."""
        print(f"{name.lower()}: {fact}", flush=True)
        if self._processes.first:
            add_fact(folder, name, fact)


def build_classifier(name: str, config: Config, dataset: Dataset, *, seed: int, field: str = "network") -> Classifier:
    """The network `name` behind its normalisation, initialised from `seed`, on the configured device."""
    with seeded(derive_seed(seed, "weights", name)):
        network = catalogue.build(
            name, num_classes=len(dataset.class_names), image_shape=dataset.image_shape, field=field
        )
    classifier = Classifier.of(network, dataset.mean, dataset.std).to(config.device)
    if config.channels_last:
        torch.nn.utils.convert_conv2d_weight_memory_format(classifier, torch.channels_last)
    return classifier


@contextmanager
def _as_config_error(label: str) -> Iterator[None]:
    """Raise as a ConfigError what a method refuses, of its options or networks, only once it runs."""
    try:
        yield
    except TrainError:
        raise
    except (TypeError, ValueError, CaptureError, CompileError) as error:
        raise ConfigError(f"{label}: {error}") from error
