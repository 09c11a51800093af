"""`fastadv data` against a server of our own."""

import hashlib
import io
import pickle
import re
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from fastadv.train.cli import main
from fastadv.train.data import cifar, download
from fastadv.train.data.cifar import CIFAR100
from fastadv.train.data.download import ARCHIVES, Archive, unpack
from fastadv.train.runtime.errors import DataError

ROWS = {"train": 4, "test": 2}
FILE = "cifar-100-python.tar.gz"


class Server(ThreadingHTTPServer):
    """Sends `content`; with `ranges` the part that is asked for, with `limit` no more than that many bytes of it."""

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.ranges, self.limit, self.status = content, True, None, None
        self.asked = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/{FILE}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        wanted = self.headers["Range"]
        self.server.asked.append(wanted)
        content, first = self.server.content, 0
        if self.server.status:
            self.send_error(self.server.status)
            return
        if wanted and self.server.ranges:
            first = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if first >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        self.wfile.write(content[first:][: self.server.limit])

    def log_message(self, *_):
        pass


def tar(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def server(monkeypatch):
    """A server of a small CIFAR-100, which is the official one for the time being."""
    random = np.random.default_rng(0)
    rows = {
        split: {b"data": random.integers(0, 256, (n, 3072), dtype=np.uint8), b"fine_labels": [7] * n}
        for split, n in ROWS.items()
    }
    files = {**rows, "meta": {b"fine_label_names": [b"%d" % label for label in range(100)]}}
    content = tar({f"cifar-100-python/{name}": pickle.dumps(entry, protocol=2) for name, entry in files.items()})
    with Server(content) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        archive = Archive(running.url, hashlib.md5(content).hexdigest(), "cifar-100-python")
        monkeypatch.setitem(ARCHIVES, "cifar100", archive)
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def fetch(tmp_path, capsys):
    """Runs the command with tmp_path/data as the folder; its status and what it said."""

    def run(*arguments):
        status = main(["data", "cifar100", "--dest", str(tmp_path / "data"), *arguments])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return status, said.out + said.err

    return run


@pytest.fixture
def part(tmp_path):
    """Where a download that is cut off waits."""
    return tmp_path / "data" / f"{FILE}.part"


def assert_complete(part):
    folder = part.parent
    assert [entry.name for entry in folder.iterdir()] == ["cifar-100-python"]
    stored = cifar.read(CIFAR100, folder, ROWS)
    assert stored.splits["train"][1].tolist() == [7] * 4


def test_the_official_addresses():
    assert {archive.file for archive in ARCHIVES.values()} == {
        "cifar-10-python.tar.gz",
        "cifar-100-python.tar.gz",
        "tiny-imagenet-200.zip",
    }
    assert all(re.fullmatch(r"[0-9a-f]{32}", archive.md5) for archive in ARCHIVES.values())


def test_a_dataset_is_fetched_and_unpacked_once(server, fetch, part):
    status, said = fetch()
    assert (status, server.asked) == (0, [None])
    assert f"use it with: --data cifar100 --data-dir {part.parent}" in said
    assert_complete(part)
    status, said = fetch()
    assert (status, len(server.asked)) == (0, 1)
    assert "is there already" in said


def test_a_cut_download_is_continued(server, fetch, part):
    server.limit = 1000
    for times in (1, 2):
        status, said = fetch()
        assert status == 2
        assert f"ended after {1000 * times} of {len(server.content)} bytes; what has come is kept" in said
        assert part.stat().st_size == 1000 * times
    server.limit = None
    assert fetch()[0] == 0
    assert server.asked == [None, "bytes=1000-", "bytes=2000-"]
    assert_complete(part)


def test_without_ranges_it_starts_again(server, fetch, part):
    server.limit, server.ranges = 1000, False
    assert fetch()[0] == 2
    server.limit = None
    assert fetch()[0] == 0
    assert server.asked == [None, "bytes=1000-"]
    assert_complete(part)


def test_a_keyboard_interrupt_loses_nothing(server, fetch, part, monkeypatch):
    received = download._receive

    def interrupted(response, path, done):
        path.write_bytes(response.read(1500))
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "_receive", interrupted)
    assert fetch() == (130, f"cifar100: {server.url}\nfastadv: interrupted; the same command continues\n")
    monkeypatch.setattr(download, "_receive", received)
    assert fetch()[0] == 0
    assert server.asked == [None, "bytes=1500-"]
    assert_complete(part)


def test_a_part_that_was_whole_is_not_fetched_again(server, fetch, part):
    part.parent.mkdir()
    part.write_bytes(server.content)
    assert fetch()[0] == 0
    assert_complete(part)


def test_another_md5_is_refused_and_leaves_nothing(server, fetch, part):
    good = server.content
    server.content = good[:-1] + b"\xff"
    status, said = fetch()
    assert status == 2
    assert f"md5 {hashlib.md5(server.content).hexdigest()}, expected {hashlib.md5(good).hexdigest()}" in said
    assert list(part.parent.iterdir()) == []
    server.content = good
    assert fetch()[0] == 0
    assert_complete(part)


def test_a_part_of_another_file_is_found_out(server, fetch, part):
    part.parent.mkdir()
    part.write_bytes(b"?" * 500)
    assert "md5" in fetch()[1]
    assert fetch()[0] == 0
    assert_complete(part)


def test_another_address_serves_the_same_file(server, fetch, part, monkeypatch):
    archive = ARCHIVES["cifar100"]
    elsewhere = Archive(f"http://127.0.0.1:1/{FILE}", archive.md5, archive.folder)
    monkeypatch.setitem(ARCHIVES, "cifar100", elsewhere)
    status, said = fetch()
    assert (status, "refused" in said) == (2, True)
    assert fetch("--url", server.url + "?mirror")[0] == 0
    assert_complete(part)


def test_what_the_server_refuses_is_said(server, fetch):
    server.status = 404
    status, said = fetch()
    assert (status, "the server answers 404 Not Found" in said) == (2, True)
    status, said = fetch("--url", "cifar.tar.gz")
    assert (status, "url: 'cifar.tar.gz', expected an address" in said) == (2, True)


def test_a_finished_download_is_unpacked_after_a_kill(server, fetch, part):
    """Killed while it unpacked: the archive and half a folder are left."""
    half = part.parent / ".cifar-100-python.unpacking" / "cifar-100-python"
    half.mkdir(parents=True)
    (half / "train").write_bytes(b"half")
    (part.parent / FILE).write_bytes(server.content)
    assert fetch()[0] == 0
    assert server.asked == []
    assert_complete(part)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tar({"data/x": b"1", "../outside": b"2"}), "OutsideDestinationError"),
        (tar({"other/x": b"1"}), "holds no folder data"),
        (tar({"data/x": bytes(range(256)) * 20})[:60], "cannot be unpacked"),
        (b"no archive", "cannot be unpacked"),
    ],
    # An archive's own bytes hold the time, and every process that runs tests must name them alike.
    ids=["outside", "without its folder", "cut off", "no archive"],
)
def test_an_unsafe_or_damaged_archive_leaves_nothing(tmp_path, content, message):
    dest = tmp_path / "inner"
    dest.mkdir()
    (dest / "archive").write_bytes(content)
    with pytest.raises(DataError, match=message):
        unpack(dest / "archive", dest, "data")
    assert [entry.name for entry in tmp_path.rglob("*")] == ["inner", "archive"]


def test_a_zip_stays_inside(tmp_path):
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.writestr("data/x", "1")
        archive.writestr("../outside", "2")
    dest = tmp_path / "inner"
    dest.mkdir()
    unpack(tmp_path / "archive", dest, "data")
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["archive", "data", "inner", "x"]
