"""The command fastadv: what it trains and attacks with comes with fastadv[train], the doctor with fastadv."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; its exit status. Without the packages of fastadv[train], say what to install."""
    try:
        from fastadv.train.cli import main as command
    except ModuleNotFoundError as error:
        if sys.argv[1:] == ["doctor"]:
            from fastadv.ops import dispatch

            print(dispatch.report())
            return 0
        print(f"fastadv: error: {error}; pip install 'fastadv[train]' brings it", file=sys.stderr)
        return 2
    return command()


if __name__ == "__main__":
    raise SystemExit(main())
