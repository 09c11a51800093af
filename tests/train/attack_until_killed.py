"""Runs `fastadv attack` in a process that kills itself (SIGKILL) at a chosen moment.

usage: attack_until_killed.py after|inside NUMBER [arguments of fastadv attack]
after: once that batch is saved. inside: once its file is written, before it is renamed.
"""

import os
import signal
import sys

from fastadv.train.cli import main
from fastadv.train.robustness.attack_split import Shard, Shards
from fastadv.train.runtime import files


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(moment: str, number: int) -> None:
    save = Shards.save

    def save_and_die(self: Shards, saved: int, shard: Shard) -> None:
        if saved == number and moment == "inside":
            files.os.replace = lambda *paths: kill_myself()  # type: ignore[attr-defined]
        save(self, saved, shard)
        if saved == number:
            kill_myself()

    Shards.save = save_and_die  # type: ignore[method-assign]


if __name__ == "__main__":
    moment, number, *arguments = sys.argv[1:]
    kill_at(moment, int(number))
    raise SystemExit(main(["attack", *arguments]))
