"""The command `fastadv data`."""

import argparse
import sys
from pathlib import Path

from fastadv.train.data.archives import ARCHIVES


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    data = commands.add_parser(
        "data",
        help="download a dataset",
        description="Download a dataset from its official address, check its md5 and unpack it. What is there already"
        " is not fetched again, and a download that was cut off is continued.",
    )
    data.add_argument("name", choices=sorted(ARCHIVES), help="the dataset")
    data.add_argument("--dest", type=Path, required=True, metavar="DIR", help="folder for it, later the --data-dir")
    data.add_argument("--url", help="another address of the same file")
    data.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Fetch and unpack options.name into options.dest. Raises DataError."""
    from fastadv.train.data.download import download
    from fastadv.train.data.unpack import unpack

    archive, dest = ARCHIVES[options.name], options.dest
    if (dest / archive.folder).is_dir():
        print(f"{dest / archive.folder} is there already; delete it to fetch it anew")
    else:
        dest.mkdir(parents=True, exist_ok=True)
        file = dest / archive.file
        url = options.url or archive.url
        print(f"{options.name}: {url}", flush=True)
        try:
            download(url, file, md5=archive.md5)
            unpack(file, dest, archive.folder)
        except KeyboardInterrupt:
            print("fastadv: interrupted; the same command continues", file=sys.stderr)
            return 130
        file.unlink()
        print(f"unpacked: {dest / archive.folder}")
    print(f"use it with: --data {options.name} --data-dir {dest}")
    return 0
