"""The results of a run in numbers: results.json, from which reports, comparisons and the README's table are made."""

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastadv.train.config.methods import METHODS, label_specs
from fastadv.train.config.run_folder import read_origin, read_result, student_result
from fastadv.train.config.train_config import Config
from fastadv.train.runtime.errors import ConfigError
from fastadv.train.runtime.files import write_text

FILE = "results.json"

# What is measured of a network, in [0, 1], and what tables call it.
ACCURACIES = {"clean": "clean accuracy", "pgd": "accuracy under PGD"}


@dataclass(frozen=True)
class MethodResults:
    """The students of one method or setting: one result a seed, with "seed" beside what the trainer found.

    Results of earlier versions have no "notes".
    """

    name: str
    label: str
    method: str
    seeds: Sequence[Mapping[str, Any]]

    def notes(self) -> dict[str, list[int]]:
        """Return the method's notes for a reader of the results, and the seeds of each."""
        found: dict[str, list[int]] = {}
        for result in self.seeds:
            for note in result.get("notes", ()):
                found.setdefault(note, []).append(int(result["seed"]))
        return found

    def values(self, key: str) -> dict[int, float]:
        """Return one quantity by seed; of "attack" its accuracy."""
        return {int(result["seed"]): value_of(result, key) for result in self.seeds}


@dataclass(frozen=True)
class RunResults:
    """A run: its configuration as in config.toml, where it ran, how many images, the teacher (if any), the students."""

    config: Mapping[str, Any]
    origin: Mapping[str, str]
    train_images: int
    test_images: int
    teacher: Mapping[str, Any] | None
    methods: Sequence[MethodResults]

    @property
    def title(self) -> str:
        students = f"{self.config['student']} on {self.config['data']}"
        return students if self.teacher is None else f"{self.config['teacher']} to {students}"

    @property
    def teacher_method(self) -> str | None:
        """The label of the method that the teacher was trained with; None where it was loaded."""
        if self.config["teacher_checkpoint"] != "none":
            return None
        name = self.config["teacher_method"]
        return METHODS[self.config["options"].get(name, {}).get("method", name)].label

    @property
    def baseline(self) -> MethodResults | None:
        """The first setting of KD or, where there is none, of plain training: the others are compared with it."""
        return next((found for kind in ("kd", "ce") for found in self.methods if found.method == kind), None)


def value_of(result: Mapping[str, Any], key: str) -> float:
    """Return one quantity of a result; of "attack" its accuracy."""
    return result["attack"]["accuracy"] if key == "attack" else result[key]


def accuracies_of(runs: Iterable[RunResults]) -> dict[str, str]:
    """Return ACCURACIES and, where all students of the runs met the same attack in the end, "attack"."""
    students = [result for run in runs for method in run.methods for result in method.seeds]
    names = {result["attack"]["name"] if "attack" in result else None for result in students}
    attack = names.pop() if len(names) == 1 else None
    return ACCURACIES if attack is None else {**ACCURACIES, "attack": f"accuracy under {attack}"}


def write_results(config: Config, folder: Path, *, train_images: int, test_images: int) -> RunResults:
    """Gather the results of the finished run in `folder`, of the students that have one, and write results.json."""
    specs = config.specs
    labels = label_specs(specs, config.options)
    found = {
        spec.name: [
            {"seed": seed, **result}
            for seed in config.seeds
            if (result := student_result(folder, spec.name, seed, epochs=config.epochs)) is not None
        ]
        for spec in specs
    }
    run = RunResults(
        config=tomllib.loads(config.to_toml()),
        origin=read_origin(folder),
        train_images=train_images,
        test_images=test_images,
        teacher=read_result(folder / "teacher") if config.needs_teacher else None,
        methods=[
            MethodResults(name=spec.name, label=labels[spec.name], method=spec.method, seeds=found[spec.name])
            for spec in specs
            if found[spec.name]
        ],
    )
    write_text(folder / FILE, json.dumps(asdict(run), indent=1) + "\n")
    return run


def read_results(folder: Path) -> RunResults:
    """Read what write_results wrote. Raises ConfigError where `folder` holds none."""
    try:
        content = json.loads((folder / FILE).read_text())
        return RunResults(**{**content, "methods": [MethodResults(**method) for method in content["methods"]]})
    except FileNotFoundError:
        raise ConfigError(f"{folder}: no {FILE}, expected the folder of a finished run") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder / FILE}: not what a run writes ({type(error).__name__}: {error})") from None
