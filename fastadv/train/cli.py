"""The command line: fastadv train, attack, compare, data, methods, doctor.

What loads torch is imported by the command that needs it: help, and what is wrong with a flag, are answered at once.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fastadv
from fastadv.train.config.attack_config import AttackConfig
from fastadv.train.config.attacks import ENSEMBLE
from fastadv.train.config.config_model import ConfigModel, describe, is_table, shown
from fastadv.train.config.train_config import OTHER_RECIPE, RECIPE_OF_DATA, Config, packaged_recipes, resolve
from fastadv.train.data.download import ARCHIVES, fetch
from fastadv.train.runtime.errors import DivergenceError, TrainError, did_you_mean
from fastadv.train.runtime.heap import keep_freed_memory
from fastadv.train.runtime.stopping import Stopped, stopping_by_signal


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status: 0, 2 for an error of the user's, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="fastadv", description="Fused adversarial sampling and distillation.")
    parser.add_argument("--version", action="version", version=f"fastadv {fastadv.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_runs(commands)
    _add_others(commands)
    arguments = sys.argv[1:] if arguments is None else arguments
    # again: the command that goes on, once there is something to go on with.
    start = argparse.Namespace(typed=shlex.join(["fastadv", *arguments]), again="the same command")
    options, unknown = parser.parse_known_args(arguments, start)
    if unknown:
        flags = [flag for action in commands.choices[options.command]._actions for flag in action.option_strings]
        near = did_you_mean(unknown[0].partition("=")[0], flags)
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{near}")
    try:
        with stopping_by_signal():
            options.run(options)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if options.command in ("methods", "doctor", "compare"):
            return 0
        print(f"fastadv: error: what read the output is gone; {options.again} continues", file=sys.stderr)
        return 2
    except TrainError as error:
        print(f"fastadv: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        kept = "" if options.again == "the same command" else f"; what was saved is whole: {options.again} continues"
        print(f"fastadv: error: {error}{kept}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"fastadv: interrupted; {options.again} continues", file=sys.stderr)
        return interrupt.status if isinstance(interrupt, Stopped) else 130


def _add_runs(commands: Any) -> None:
    """The commands that make a folder which can be continued; their flags are the fields of a configuration."""
    train = commands.add_parser(
        "train",
        help="train a teacher and its students, and report",
        description="Train a teacher and its students, and report. Without arguments: the digits of scikit-learn.",
    )
    chosen = ", ".join(f"{recipe} for {data}" for data, recipe in RECIPE_OF_DATA.items())
    train.add_argument(
        "--recipe",
        help=f"the path of a TOML file, or one of {', '.join(packaged_recipes())} (default: by --data, {chosen},"
        f" {OTHER_RECIPE} for all others)",
    )
    train.add_argument("--run-dir", type=Path, help="folder of the run; default runs/DATA-TIME")
    train.add_argument(
        "--resume",
        action="store_true",
        help="continue the run (the newest one by default), or start it where there is none; methods, seeds and"
        " settings given with it are added to it",
    )
    _add_fields(
        train,
        Config,
        "Each overrides the recipe, and what the recipe sets comes before the defaults named here. Fractions such as"
        " 8/255 are numbers.",
    )
    train.set_defaults(run=_train)

    attack = commands.add_parser(
        "attack",
        help="accuracy of a network, clean and under attack",
        description="Accuracy of a network on a test split, clean and under attack, with 95 % intervals.",
    )
    attack.add_argument("--out", type=Path, help="folder of the result; default runs/ATTACK-MODEL-DATA-TIME")
    attack.add_argument(
        "--resume", action="store_true", help="continue in the folder (the newest by default), or start there"
    )
    _add_fields(attack, AttackConfig, "Fractions such as 8/255 are numbers.")
    attack.set_defaults(run=_attack)


def _add_fields(command: argparse.ArgumentParser, kind: type[ConfigModel], note: str) -> None:
    """A flag for every field, of which one that is not given leaves no trace."""
    group = command.add_argument_group("configuration", note, argument_default=argparse.SUPPRESS)
    for name, field in kind.model_fields.items():
        flag, default = "--" + name.replace("_", "-"), field.default
        default = ",".join(map(shown, default)) or "none" if isinstance(default, tuple) else shown(default)
        text = f"{field.description} (default: {default})".replace("%", "%%")
        if field.annotation is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
        elif is_table(field.annotation):
            # Given entry by entry: --option for the field options.
            flag = flag.removesuffix("s")
            group.add_argument(flag, dest=name, action="append", metavar="NAME.KEY=VALUE", help=field.description)
        else:
            group.add_argument(flag, metavar=describe(field.annotation), help=text)


def _add_others(commands: Any) -> None:
    compare = commands.add_parser(
        "compare",
        help="put several runs into one table and one plot",
        description="The methods of several finished runs in one table, with paired differences where seeds coincide.",
    )
    compare.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    compare.add_argument(
        "--baseline", help="NAME or RUN/NAME to compare with; default: the first run's kd, else its ce"
    )
    compare.add_argument("--out", type=Path, help="folder of compare.md and compare.png; default runs/compare-TIME")
    compare.set_defaults(run=_compare)

    methods = commands.add_parser("methods", help="list the methods of training with their options")
    methods.add_argument("method", nargs="?", help="say all about this one")
    methods.set_defaults(run=_methods)

    data = commands.add_parser(
        "data",
        help="download a dataset",
        description="Download a dataset from its official address, check its md5 and unpack it. What is there already"
        " is not fetched again, and a download that was cut off is continued.",
    )
    data.add_argument("name", choices=sorted(ARCHIVES), help="the dataset")
    data.add_argument("--dest", type=Path, required=True, metavar="DIR", help="folder for it, later the --data-dir")
    data.add_argument("--url", help="another address of the same file")
    data.set_defaults(run=lambda options: fetch(options.name, options.dest, url=options.url))

    doctor = commands.add_parser("doctor", help="say what serves each op here, and why the others do not")
    doctor.set_defaults(run=_doctor)


def _typed(options: argparse.Namespace, kind: type[ConfigModel]) -> dict[str, object]:
    """The fields that were given as flags."""
    return {name: value for name, value in vars(options).items() if name in kind.model_fields}


def _resumed(options: argparse.Namespace, named: Path | None, kind: type[ConfigModel], what: str) -> Path | None:
    """The folder to continue; None where there is none, or none is asked for."""
    if not options.resume:
        return None
    from fastadv.train.config.run_folder import find_run

    folder = find_run(named, kind.FILE)
    if folder is None:
        print(f"nothing to resume: starting a new {what}", flush=True)
    return folder


def _train(options: argparse.Namespace) -> None:
    keep_freed_memory()
    flags = _typed(options, Config)
    folder = _resumed(options, options.run_dir, Config, "run")
    if folder is None:
        config = resolve(recipe=options.recipe, flags=flags)

    from fastadv.train.config.auto_precision import decided
    from fastadv.train.config.resume import checkpoint_facts, continued_config, extend_run
    from fastadv.train.config.run_folder import make_folder, open_run
    from fastadv.train.loop.experiment import Experiment
    from fastadv.train.report.training_report import general_notes, require_libraries, write_report
    from fastadv.train.robustness.students import attack_students
    from fastadv.train.runtime.machine import cpu_threads
    from fastadv.train.runtime.processes import joined

    if folder is not None:
        config = continued_config(folder, recipe=options.recipe, flags=flags)
    config, facts = decided(config)
    config.check_used()
    with joined(config.device) as processes, cpu_threads(config.threads):
        require_libraries()
        experiment = Experiment(config)
        with open_run(
            config,
            processes,
            resumed=folder,
            named=lambda: options.run_dir or make_folder(config.data),
            command=options.typed,
            facts={**facts, **checkpoint_facts(config), **experiment.images},
            extend=lambda run: extend_run(run, config, experiment.images, command=options.typed),
        ) as run:
            options.again = shlex.join(["fastadv", "train", "--resume", "--run-dir", str(run)])
            print(f"run folder: {run}", flush=True)
            for note in [*config.without_effect(flags), *general_notes(config, experiment.dataset)]:
                print(f"note: {note}", flush=True)
            if "Precision" in facts:
                print(f"precision: {facts['Precision']}", flush=True)
            teacher = experiment.run(run)
            attack_students(config, experiment.dataset, run, processes)
            table = processes.broadcast_from_rank0(lambda: write_report(config, experiment.dataset, teacher, run))
            print(f"\n{table}\nreport, pictures, metrics and weights: {run}")
            if experiment.diverged:
                raise DivergenceError("; ".join(experiment.diverged))


def _attack(options: argparse.Namespace) -> None:
    keep_freed_memory()
    flags = _typed(options, AttackConfig)
    folder = _resumed(options, options.out, AttackConfig, "evaluation")
    if folder is None:
        config = AttackConfig(**AttackConfig.read_flags(flags))

    from fastadv.train.config.resume import extend_attack, stored_attack
    from fastadv.train.config.run_folder import make_folder, open_run
    from fastadv.train.robustness import attack_report, ensemble_report
    from fastadv.train.robustness.attack_split import check_same, prepare
    from fastadv.train.runtime.machine import cpu_threads
    from fastadv.train.runtime.processes import joined

    if folder is not None:
        config = stored_attack(folder, flags=flags)
    evaluate = ensemble_report.evaluate if config.attack == ENSEMBLE else attack_report.evaluate
    with joined(config.device) as processes, cpu_threads(config.threads):
        prepared = prepare(config)
        check_same(config, prepared, processes)
        facts = {**prepared.weights, **prepared.data}
        processes.broadcast_from_rank0(lambda: ensemble_report.check_save(config, prepared))
        with open_run(
            config,
            processes,
            resumed=folder,
            named=lambda: options.out or make_folder(f"{config.attack}-{config.model}-{config.data}"),
            command=options.typed,
            facts=facts,
            extend=lambda out: extend_attack(out, config, facts, command=options.typed),
        ) as out:
            options.again = shlex.join(["fastadv", "attack", "--resume", "--out", str(out)])
            print(f"folder: {out}", flush=True)
            evaluate(config, prepared, out, processes, show=lambda text: print(f"\n{text}", flush=True))
            print(f"classes and JSON: {out / 'report.md'}, {out / 'result.json'}")


def _compare(options: argparse.Namespace) -> None:
    from fastadv.train.config.run_folder import make_folder
    from fastadv.train.report.compare import compare_runs

    text, page = compare_runs(options.runs, options.baseline, lambda: options.out or make_folder("compare"))
    print(f"{text}\n\nthe same with a plot: {page}")


def _methods(options: argparse.Namespace) -> None:
    from fastadv.train.config.method_help import explain_method, list_methods

    print(list_methods() if options.method is None else explain_method(options.method))


def _doctor(options: argparse.Namespace) -> None:
    from fastadv.ops import dispatch

    print(dispatch.report())
