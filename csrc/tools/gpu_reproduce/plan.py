"""The trainings of a call, and how many epochs of one fit into the time that it has."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from gpu_check.lines import append

# Of the time that epochs are counted into: the rest is for checkpoints, accuracies between epochs, and chance.
CERTAIN = 0.85
# Flags of `fastadv train` that are added where a training fails, one after the other.
INSTEAD = ("--no-compile", "--no-capture")


@dataclass(frozen=True)
class Training:
    """A run of `fastadv train`.

    Attributes:
        recipe: of this package, whose epochs are the most that are trained.
        share: of the call's seconds.
        after: seconds that are kept for what follows the last step: evaluation, report.
    """

    recipe: str
    share: float
    after: float


# In the order in which they run; the name is that of the run's folder and of the call's part.
TRAININGS = {
    "students": Training("tald-cifar100-gpu", share=225, after=20),
    "speedrun": Training("speedrun-cifar100", share=275, after=75),
}


@dataclass(frozen=True)
class Plan:
    """What a training was given its time for, as measured before it began.

    Attributes:
        seconds: that it has, with what was used to measure.
        step_seconds: of a step of each method, once everything is compiled and captured.
        compile_seconds: of each method's first steps, beyond what those would take afterwards.
        students: how many are trained, of all methods and seeds.
        epochs: of each student; ``most``: of the recipe.
    """

    run: str
    seconds: float
    step_seconds: dict[str, float]
    compile_seconds: dict[str, float]
    students: int
    epochs: int
    most: int

    def write(self, out: Path) -> None:
        """Append the plan to plan.jsonl."""
        append(out / "plan.jsonl", asdict(self))

    def __str__(self) -> str:
        steps = ", ".join(f"{name} {1e3 * each:.2f} ms" for name, each in self.step_seconds.items())
        compiling = sum(self.compile_seconds.values())
        return (
            f"{self.run}: {self.epochs} of {self.most} epochs for each of {self.students} students in "
            f"{self.seconds:.0f} s; a step takes {steps}; compiling and capturing took {compiling:.0f} s"
        )


def fitting_epochs(step_seconds: float, steps_per_epoch: int, seconds: float, most: int) -> int:
    """Return how many epochs fit, at least one. step_seconds: of all students' steps together."""
    return max(1, min(most, int(CERTAIN * seconds / (step_seconds * steps_per_epoch))))
