"""The command line: fastadv train, attack, compare, data, methods, doctor."""

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from fastadv.train.config.fields import Fields
from fastadv.train.config.method_help import explain_method, list_methods
from fastadv.train.config.run_config import Config, packaged_recipes, resolve
from fastadv.train.config.settings import shown
from fastadv.train.config.values import describe_type, is_table
from fastadv.train.data.command import add_command as add_data_command
from fastadv.train.robustness.attack_config import AttackConfig
from fastadv.train.runtime.errors import TrainError
from fastadv.train.runtime.machine import cpu_threads
from fastadv.train.runtime.processes import joined
from fastadv.train.runtime.run_folder import (
    check_facts,
    continued_config,
    extend_run,
    find_run,
    named_by_time,
    start_run,
    stored_attack,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status: 0, 2 for an error of the user's, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="fastadv", description="Fused adversarial sampling and distillation.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(commands)
    _add_attack(commands)
    _add_compare(commands)
    methods = commands.add_parser("methods", help="list the methods of training with their options")
    methods.add_argument("method", nargs="?", help="say all about this one")
    methods.set_defaults(run=_methods)
    add_data_command(commands)
    doctor = commands.add_parser("doctor", help="say what serves each op here, and why the others do not")
    doctor.set_defaults(run=_doctor)
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(arguments, argparse.Namespace(typed=shlex.join(["fastadv", *arguments])))
    try:
        return options.run(options)
    except (TrainError, OSError) as error:
        print(f"fastadv: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fastadv: interrupted; --resume with the same folder continues", file=sys.stderr)
        return 130


def _add_train(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    train = commands.add_parser(
        "train",
        help="train a teacher and its students, and report",
        description="Train a teacher and its students, and report. Without arguments: the digits of scikit-learn.",
        argument_default=argparse.SUPPRESS,
    )
    train.add_argument(
        "--recipe", default=None, help=f"the path of a TOML file, or one of {', '.join(packaged_recipes())}"
    )
    train.add_argument("--run-dir", default=None, type=Path, help="folder of the run; default runs/DATA-TIME")
    train.add_argument(
        "--resume",
        action="store_true",
        default=False,
        help="continue the run (the newest one by default); methods, seeds and settings given with it are added to it",
    )
    fields = train.add_argument_group(
        "configuration", "Each overrides the recipe. Fractions such as 8/255 are numbers."
    )
    _add_fields(fields, Config)
    train.set_defaults(run=_train)


def _add_attack(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    attack = commands.add_parser(
        "attack",
        help="accuracy of a network, clean and under attack",
        description="Accuracy of a network on a test split, clean and under attack, with 95 % intervals.",
        argument_default=argparse.SUPPRESS,
    )
    attack.add_argument("--out", default=None, type=Path, help="folder of the result; default runs/ATTACK-MODEL-TIME")
    attack.add_argument(
        "--resume", action="store_true", default=False, help="continue in the folder (the newest by default)"
    )
    _add_fields(attack.add_argument_group("configuration", "Fractions such as 8/255 are numbers."), AttackConfig)
    attack.set_defaults(run=_attack)


def _add_compare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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


def _add_fields(group: "argparse._ArgumentGroup", kind: type[Fields]) -> None:
    """A flag for every field."""
    about, types = kind.about(), kind.types()
    for field in dataclasses.fields(kind):
        flag = "--" + field.name.replace("_", "-")
        text = f"{about[field.name].help} (default: {_shown(field.default)})".replace("%", "%%")
        if types[field.name] is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
        elif is_table(types[field.name]):
            # Given entry by entry: --option for the field options.
            flag, text = flag.removesuffix("s"), about[field.name].help
            group.add_argument(flag, dest=field.name, action="append", metavar="NAME.KEY=VALUE", help=text)
        else:
            group.add_argument(flag, metavar=describe_type(types[field.name]), help=text)


def _typed(options: argparse.Namespace, kind: type[Fields]) -> dict[str, object]:
    """The fields that were given as flags."""
    return {name: value for name, value in vars(options).items() if name in kind.types()}


def _shown(default: object) -> str:
    """A default as it may be typed."""
    return ",".join(map(shown, default)) or "none" if isinstance(default, tuple) else shown(default)


def _train(options: argparse.Namespace) -> int:
    # Imported here: it loads torch's compiled ops, which `fastadv --help` need not wait for.
    from fastadv.train.loop.experiment import run_experiment

    flags = _typed(options, Config)
    folder = find_run(options.run_dir, Config) if options.resume else None
    if folder is not None:
        config = continued_config(folder, recipe=options.recipe, flags=flags)
    else:
        if options.resume:
            print("nothing to resume: starting a new run", flush=True)
        config = resolve(recipe=options.recipe, flags=flags)
    config.check_used()
    with joined(config.device) as processes:
        facts = {"Processes": str(processes.count)} if processes.count > 1 else {}

        def prepare() -> Path:
            if folder is None:
                return start_run(config, options.run_dir, command=options.typed, facts=facts)
            extend_run(folder, config, command=options.typed)
            return folder

        folder = processes.from_first(prepare)
        print(f"run folder: {folder}", flush=True)
        table = run_experiment(config, folder)
        print(f"\n{table}\nreport, pictures, metrics and weights: {folder}")
    return 0


def _attack(options: argparse.Namespace) -> int:
    from fastadv.train.robustness.attack_report import write_result
    from fastadv.train.robustness.run import attack_missing, fingerprint, prepare

    flags = _typed(options, AttackConfig)
    folder = find_run(options.out, AttackConfig) if options.resume else None
    if options.resume and folder is None:
        print("nothing to resume: starting a new evaluation", flush=True)
    config = AttackConfig(**AttackConfig.read(flags)) if folder is None else stored_attack(folder, flags=flags)
    with cpu_threads(config.threads):
        subject = prepare(config)
        facts = {"Checkpoint SHA-256": fingerprint(config)}
        if folder is None:
            folder = start_run(config, options.out, command=options.typed, facts=facts)
        else:
            check_facts(folder, facts)
        print(f"folder: {folder}", flush=True)
        summary = write_result(config, subject, attack_missing(config, subject, folder), folder)
    print(f"\n{summary}\nclasses and JSON: {folder / 'report.md'}, {folder / 'result.json'}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from fastadv.train.report.compare import compare_runs

    out = options.out or named_by_time("compare")
    print(compare_runs(options.runs, options.baseline, out))
    print(f"\nthe same with a plot: {out / 'compare.md'}")
    return 0


def _methods(options: argparse.Namespace) -> int:
    print(list_methods() if options.method is None else explain_method(options.method))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from fastadv.ops import dispatch

    print(dispatch.report())
    return 0
