"""The command: ``python -m gpu_reproduce --data-dir DIR --checkpoints DIR --out DIR --deadline 540``."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from gpu_check import facts
from gpu_check.running import ROOT, Part, Session, Step, call, chosen, find_cuda, parser_of, show

import gpu_reproduce
from gpu_reproduce import pack, summary
from gpu_reproduce.plan import INSTEAD, TRAININGS
from gpu_reproduce.runs import MIB, keeping, unpack

WORK = ROOT / "build" / "gpu-reproduce"
# A checkpoint of 130 MB, after the step that runs.
PATIENCE_SECONDS = 15.0
# What is kept of the time for that, the archives and the summary.
RESERVED_SECONDS = PATIENCE_SECONDS + 10.0
TEACHER = "cifar100_resnet56.pth"


def parts_of(runs: Path, seeds: str = "0", flags: Mapping[str, Sequence[str]] | None = None) -> list[Part]:
    """Return the parts of a call. flags: of `fastadv train`, for each training by name."""
    python = (sys.executable, "-m", "gpu_reproduce.training")
    return [
        Part(
            name,
            (
                Step(
                    "train",
                    (
                        *python,
                        name,
                        "{deadline}",
                        "--out={out}",
                        f"--runs={runs}",
                        f"--seeds={seeds}",
                        *(flags or {}).get(name, ()),
                    ),
                    patience=PATIENCE_SECONDS,
                    instead=INSTEAD,
                ),
            ),
            share=training.share,
        )
        for name, training in TRAININGS.items()
    ]


def _flags(asked: argparse.Namespace) -> dict[str, list[str]]:
    """The flags of `fastadv train` that tell where data, checkpoints and device are, and what else was asked for."""
    if asked.rehearse:
        from gpu_reproduce import rehearsal  # loads torch, without which a call begins sooner

        folder = asked.runs / "rehearsal"
        teacher = folder / rehearsal.TEACHER
        common = [*rehearsal.flags(folder), "--timed-steps=2"]
    else:
        teacher = asked.checkpoints / TEACHER
        common = ["--data-dir", str(asked.data_dir), "--device", "cuda"]
    more = shlex.split(asked.flags)
    return {
        "students": [*common, "--teacher-checkpoint", str(teacher), *more],
        "speedrun": [*common, *more],
    }


def _found(asked: argparse.Namespace) -> bytes:
    """Look for data and checkpoint, before any time is spent; return what is to be unpacked into asked.data_dir."""
    if asked.rehearse:
        return b""
    if asked.data_dir is None or asked.checkpoints is None:
        raise SystemExit("--data-dir and --checkpoints are needed; --rehearse does without")
    asked.checkpoints = asked.checkpoints.resolve()
    if not (asked.checkpoints / TEACHER).is_file():
        raise SystemExit(f"--checkpoints {asked.checkpoints} holds no {TEACHER}")
    try:
        asked.data_dir, packed = pack.find(asked.data_dir.resolve(), WORK / "data")
    except ValueError as error:
        raise SystemExit(f"--data-dir {error}") from None
    return packed


def main() -> None:
    find_cuda()
    parser = parser_of("gpu_reproduce", gpu_reproduce.__doc__, [facts.PART, *parts_of(WORK)], WORK / "results")
    parser.add_argument("--data-dir", type=Path, help="folder that holds cifar-100-python, or the parts of it")
    parser.add_argument("--checkpoints", type=Path, help=f"folder that holds {TEACHER}")
    parser.add_argument("--runs", type=Path, default=WORK / "runs", help="folder of the trainings themselves")
    parser.add_argument("--resume", type=Path, help="results of an earlier call, to go on from")
    parser.add_argument("--seeds", default="0", help="one student per method and seed (default: 0)")
    parser.add_argument("--largest", type=float, default=15, help="MiB of a file that an archive takes (default: 15)")
    parser.add_argument("--flags", default="", help="more flags of fastadv train, for every training")
    parser.add_argument("--rehearse", action="store_true", help="the whole call at tiny sizes on the CPU")
    asked = parser.parse_args()
    asked.runs, out = asked.runs.resolve(), asked.out.resolve()
    packed = _found(asked)
    parts = parts_of(asked.runs, asked.seeds, _flags(asked))
    parts = chosen(asked.parts, parts if asked.rehearse else [facts.PART, *parts])
    if asked.dry_run:
        show(parts)
        return
    names, largest = list(TRAININGS), int(asked.largest * MIB)
    session = Session(out, asked.deadline - RESERVED_SECONDS, earlier=("plan.jsonl",))
    asked.runs.mkdir(parents=True, exist_ok=True)
    if packed:
        pack.unpack(packed, asked.data_dir)
        session.say("data", f"unpacked in {asked.data_dir}")
    if asked.resume is not None:
        for line in unpack(asked.resume, asked.runs, names):
            session.say("resume", line)
    if asked.rehearse:
        from gpu_reproduce import rehearsal

        rehearsal.write(asked.runs / "rehearsal")
        said = {"rehearsal": "tiny sizes on a CPU: nothing here is a result"}
        (out / "facts.json").write_text(json.dumps(said) + "\n")
    with keeping(asked.runs, out, names, largest):
        status = call(
            "gpu-reproduce", session, parts, partial(summary.write, runs=asked.runs, names=names, largest=largest)
        )
    sys.exit(status)


if __name__ == "__main__":
    main()
