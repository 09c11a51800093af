"""Runs `fastadv attack` in a process that kills itself (SIGKILL) at a chosen moment.

usage: attack_until_killed.py after|inside NUMBER [arguments of fastadv attack]
after: once that batch is saved. inside: once its file is written, before it is renamed.
"""

import os
import signal
import sys
from pathlib import Path

from fastadv.train.cli import main
from fastadv.train.robustness import attack_split
from fastadv.train.runtime import files


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(moment: str, number: int) -> None:
    save, last = attack_split.save_shard, f"batch-{number:05d}.json"

    def save_and_die(path: Path, shard: attack_split.Shard) -> None:
        if path.name == last and moment == "inside":
            files.os.replace = lambda *paths: kill_myself()  # type: ignore[attr-defined]
        save(path, shard)
        if path.name == last:
            kill_myself()

    attack_split.save_shard = save_and_die


if __name__ == "__main__":
    moment, number, *arguments = sys.argv[1:]
    kill_at(moment, int(number))
    raise SystemExit(main(["attack", *arguments]))
