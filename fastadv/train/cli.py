"""The command line: fastadv train, fastadv doctor."""

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from fastadv.train.config import ABOUT, FIELD_TYPES, Config, resolve
from fastadv.train.errors import TrainError
from fastadv.train.fields import describe_type
from fastadv.train.run_folder import find_run, start_run, stored_config


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status: 0, 2 for an error of the user's, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="fastadv", description="Fused adversarial sampling and distillation.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(commands)
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
        print("fastadv: interrupted; --resume with the same --run-dir continues", file=sys.stderr)
        return 130


def _add_train(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    train = commands.add_parser(
        "train",
        help="train a teacher and its students, and report",
        description="Train a teacher and its students, and report. Without arguments: the digits of scikit-learn.",
        argument_default=argparse.SUPPRESS,
    )
    train.add_argument("--recipe", default=None, help="a packaged recipe or the path of a TOML file")
    train.add_argument("--run-dir", default=None, type=Path, help="folder of the run; default runs/DATA-TIME")
    train.add_argument(
        "--resume", action="store_true", default=False, help="continue the run (the newest one by default)"
    )
    fields = train.add_argument_group(
        "configuration", "Each overrides the recipe. Fractions such as 8/255 are numbers."
    )
    for field in dataclasses.fields(Config):
        flag = "--" + field.name.replace("_", "-")
        text = f"{ABOUT[field.name].help} (default: {_shown(field.default)})"
        if FIELD_TYPES[field.name] is bool:
            fields.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
        else:
            fields.add_argument(flag, metavar=describe_type(FIELD_TYPES[field.name]), help=text)
    train.set_defaults(run=_train)


def _shown(default: object) -> str:
    return ",".join(map(str, default)) or "none" if isinstance(default, tuple) else str(default).lower()


def _train(options: argparse.Namespace) -> int:
    # Imported here: it loads torch's compiled ops, which `fastadv --help` need not wait for.
    from fastadv.train.experiment import run_experiment

    flags = {name: value for name, value in vars(options).items() if name in FIELD_TYPES}
    folder = find_run(options.run_dir) if options.resume else None
    if folder is not None:
        config = stored_config(folder, recipe=options.recipe, flags=flags)
    else:
        if options.resume:
            print("nothing to resume: starting a new run", flush=True)
        config = resolve(recipe=options.recipe, flags=flags)
        folder = start_run(config, options.run_dir, command=options.typed)
    print(f"run folder: {folder}", flush=True)
    table = run_experiment(config, folder)
    print(f"\n{table}\nreport, pictures, metrics and weights: {folder}")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from fastadv.ops import dispatch

    print(dispatch.report())
    return 0
