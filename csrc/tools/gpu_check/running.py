"""Runs parts one after the other before one deadline; whatever they print is in the log, and flushed, at once."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gpu_check.lines import append, object_of

ROOT = Path(__file__).resolve().parents[3]
# Triton's and the compiler's caches stay: compiling takes longer than the tests themselves.
CACHES = ROOT / "build" / "gpu-check"
# How a step says that the CUDA context of its process is lost, and that the rest needs another.
STICKY = 86
# How the fact "libraries" begins where there is none for CUDA.
NO_LIBRARY = "no library"
# How often a step that crashes is gone on with.
MOST_CRASHES = 10
# What a process group has to end by itself before it is killed.
PATIENCE_SECONDS = 3.0
# And what it has then.
KILL_SECONDS = 10.0


class Stopped(BaseException):
    """The call itself was told to end."""


@dataclass(frozen=True)
class Step:
    """One command. ``{deadline}`` in it is when it is ended, by time.monotonic(), ``{out}`` the folder of results.

    Attributes:
        resumes: whether it goes on where it was when it is begun again, as it is after a lost CUDA context or a crash.
        patience: the seconds that it has, once told to end, before it is killed; None is PATIENCE_SECONDS.
        share: of the seconds that its part has left, what it may take.
        instead: what is added to the command, one after the other and each time in a new process, while it fails.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    resumes: bool = False
    patience: float | None = None
    share: float = 1.0
    instead: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """Steps that all run.

    Attributes:
        share: of the time that is left, by the shares of the parts that are left.
        needs: a program without which the part is skipped.
        compiled: whether it is of the compiled libraries, and fails where facts.json says that there is none.
        required: whether the parts after it make no sense where it fails.
    """

    name: str
    steps: tuple[Step, ...]
    share: float = 1.0
    needs: str = ""
    compiled: bool = False
    required: bool = False


@dataclass
class Outcome:
    """End of a part: "passed", "failed", "stopped" by its limit or "skipped", and why."""

    part: str
    outcome: str = "passed"
    seconds: float = 0.0
    reasons: list[str] = field(default_factory=list)


class Session:
    """One call: a folder of results, a log, a deadline.

    ``earlier``: names of files in the folder that another call may have left, beside those of every call.
    """

    def __init__(
        self, out: Path, deadline: float, clock: Callable[[], float] = time.monotonic, earlier: Sequence[str] = ()
    ) -> None:
        out.mkdir(parents=True, exist_ok=True)
        for name in ("facts.json", "log.txt", "parts.jsonl", "summary.txt", "results.json", *earlier):
            (out / name).unlink(missing_ok=True)
        self.out = out
        self._clock = clock
        self._start = clock()
        self._deadline = deadline
        self._log = (out / "log.txt").open("w", buffering=1)

    def left(self) -> float:
        """Return the seconds until the deadline."""
        return self._deadline - (self._clock() - self._start)

    def say(self, part: str, line: str) -> None:
        text = f"{self._clock() - self._start:6.1f} {part}: {line}"
        print(text, flush=True)
        self._log.write(text + "\n")

    def run(self, parts: Sequence[Part], after: Callable[[], object] = lambda: None) -> bool:
        """Run the parts, each within its share of the time left; True where none failed or was stopped.

        One that the others need may take all of it. ``after`` is called after each.
        """
        good = True
        for index, part in enumerate(parts):
            share = 1.0 if part.required else part.share / sum(each.share for each in parts[index:])
            limit = self.left() * share
            outcome = self._run_part(part, limit)
            good &= outcome.outcome in ("passed", "skipped")
            self._keep(outcome)
            after()
            if part.required and outcome.outcome != "passed":
                self.say(part.name, "without it nothing else makes sense")
                break
        return good

    def _run_part(self, part: Part, limit: float) -> Outcome:
        if part.needs and shutil.which(part.needs) is None:
            return Outcome(part.name, "skipped", reasons=[f"{part.needs} is not on the PATH"])
        libraries = object_of(self.out / "facts.json").get("libraries", "")
        if part.compiled and libraries.startswith(NO_LIBRARY):
            return Outcome(part.name, "failed", reasons=[libraries])
        self.say(part.name, f"begins, {limit:.0f} s")
        outcome, start = Outcome(part.name), self._clock()
        for step in part.steps:
            left = limit - (self._clock() - start)
            self._run_to_its_end(step, left * step.share, outcome)
        outcome.seconds = round(self._clock() - start, 1)
        return outcome

    def _run_to_its_end(self, step: Step, seconds: float, outcome: Outcome) -> None:
        """Run a step, and where it fails what is left of it, or what there is instead; add to ``outcome`` how it ends.

        All of that within ``seconds``.
        """
        end, crashes, instead = self._clock() + seconds, 0, list(step.instead)
        while True:
            status = self._run_step(outcome.part, step, end - self._clock())
            if status == 0:
                return
            if status is None:
                outcome.outcome = "stopped" if outcome.outcome == "passed" else outcome.outcome
                outcome.reasons.append(f"{step.name}: ended at its limit of {max(0.0, seconds):.0f} s")
                return
            outcome.outcome, why = "failed", f"{step.name}: {_told(status)}"
            if step.resumes and crashes < MOST_CRASHES and (status == STICKY or status < 0):
                crashes += 1
                outcome.reasons.append(f"{why}; the rest in a new process")
            elif instead:
                outcome.reasons.append(f"{why}; again with {instead[0]}")
                step = replace(step, command=(*step.command, instead.pop(0)))
            else:
                outcome.reasons.append(why)
                return

    def _run_step(self, part: str, step: Step, seconds: float) -> int | None:
        """Run one step; its exit status, None where it was ended after ``seconds`` or there are none."""
        if seconds <= 0:
            return None
        caches = {"TRITON_CACHE_DIR": str(CACHES / "triton"), "TORCHINDUCTOR_CACHE_DIR": str(CACHES / "inductor")}
        # What the caller's holds may be packages that were carried along.
        places = (str(ROOT), str(ROOT / "csrc" / "tools"), os.environ.get("PYTHONPATH", ""))
        path = {"PYTHONPATH": os.pathsep.join(filter(None, places)), "PYTHONUNBUFFERED": "1"}
        with _own_group(
            [
                word.replace("{deadline}", f"{time.monotonic() + seconds:.1f}").replace("{out}", str(self.out))
                for word in step.command
            ],
            os.environ | path | caches | {"GPU_CHECK_OUT": str(self.out)} | dict(step.environment),
            PATIENCE_SECONDS if step.patience is None else step.patience,
        ) as process:
            reader = threading.Thread(target=self._copy, args=(part, process.stdout), daemon=True)
            reader.start()
            try:
                status: int | None = process.wait(seconds)
            except subprocess.TimeoutExpired:
                status = None
        reader.join(1.0)
        return status

    def _copy(self, part: str, lines: Any) -> None:
        for line in lines:
            self.say(part, line.rstrip("\n"))

    def _keep(self, outcome: Outcome) -> None:
        why = "; ".join(outcome.reasons)
        self.say(outcome.part, f"{outcome.outcome} after {outcome.seconds:.1f} s{': ' + why if why else ''}")
        append(self.out / "parts.jsonl", vars(outcome))


def _told(status: int) -> str:
    if status < 0:
        return f"ended by a signal, {signal.strsignal(-status)}"
    return "the CUDA context was lost" if status == STICKY else f"exit status {status}"


def call(name: str, session: Session, parts: Sequence[Part], summarise: Callable[[Path], str]) -> int:
    """Run the parts and print the summary last; 0 where all passed, 1 where not, 143 where the call was ended.

    The summary is written after each part as well: a call that is killed has no last word.
    """

    def summed_up() -> str:
        try:
            return summarise(session.out)
        except Exception as error:  # of which no part is to end, and the files are there all the same
            return f"no summary: {type(error).__name__}: {error}"

    try:
        with stoppable():
            status = 0 if session.run(parts, summed_up) else 1
    except Stopped:
        session.say(name, "told to end")
        status = 143
    print(f"\n{summed_up()}\nall of it in {session.out}", flush=True)
    return status


def find_cuda() -> None:
    """Look for CUDA's programs where they are by convention as well: the PATH of an image may lack it."""
    homes = filter(None, (os.environ.get("CUDA_HOME"), "/usr/local/cuda"))
    os.environ["PATH"] = os.pathsep.join((os.environ.get("PATH", os.defpath), *(f"{home}/bin" for home in homes)))


def parser_of(name: str, description: str | None, among: Sequence[Part], results: Path) -> argparse.ArgumentParser:
    """Return a parser with the options of every call. results: the folder of results where $OUT names none."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(part.name for part in among)
    parser.add_argument("--parts", default="", help=f"some of {names}")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(os.environ.get("OUT") or results),
        help=f"the folder of results (default: $OUT, else {results.relative_to(ROOT)})",
    )
    parser.add_argument("--deadline", type=float, default=540.0, help="seconds after which all is over (default: 540)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run none")
    return parser


def chosen(names: str, among: Sequence[Part]) -> list[Part]:
    """Return the parts that ``names``, separated by commas, choose, and those that are required; all for none."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    known = [part.name for part in among]
    if unknown := [name for name in wanted if name not in known]:
        raise SystemExit(f"there is no part {', '.join(unknown)}; there are {', '.join(known)}")
    return [part for part in among if not wanted or part.required or part.name in wanted]


def show(parts: Sequence[Part]) -> None:
    """Print the commands of the parts."""
    for part in parts:
        for step in part.steps:
            variables = [f"{name}={value}" for name, value in step.environment.items()]
            print(f"{part.name} ({part.share:.0f} s): {' '.join((*variables, shlex.join(step.command)))}")


@contextlib.contextmanager
def _own_group(
    command: Sequence[str], environment: Mapping[str, str], patience: float
) -> Iterator[subprocess.Popen[str]]:
    """Run ``command`` in a process group of its own, none of which is left afterwards.

    patience: the seconds that it has to end by itself.
    """
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        yield process
    finally:
        try:
            _end(process, signal.SIGTERM, patience)
        finally:
            # Also where the call was told to end meanwhile. What the driver holds on to may not end at all.
            _end(process, signal.SIGKILL, KILL_SECONDS)


def _end(process: subprocess.Popen[str], number: int, seconds: float) -> None:
    """Send a signal to the group, which outlives its first process as long as any member is there."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds if process.poll() is None else 0)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Turn SIGTERM and SIGINT into Stopped, so that what runs is ended, with all it started, before the call ends.

    The first one: what follows it is the clean-up, which a second one would cut short.
    """
    numbers = (signal.SIGTERM, signal.SIGINT)

    def stop(number: int, frame: Any) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is stop:
                signal.signal(number, handler)
