import collections
import pickle
import struct

import numpy as np
import pytest

from fastadv.train.data import restricted_pickle
from fastadv.train.runtime.errors import DataError


def python2_string(value: bytes) -> bytes:
    """A Python 2 str in protocol 2: BINSTRING."""
    return b"T" + struct.pack("<i", len(value)) + value


def python2_array(array: np.ndarray, module: bytes = b"numpy.core.multiarray", dtype: bytes = b"u1") -> bytes:
    """A numpy array as numpy on Python 2 pickled it."""
    rows, columns = array.shape
    empty = b"c" + module + b"\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + python2_string(b"b") + b"\x87R"
    kind = b"cnumpy\ndtype\n" + python2_string(dtype) + b"K\x00K\x01\x87R"
    kind += b"(K\x03" + python2_string(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"J" + struct.pack("<i", rows) + b"J" + struct.pack("<i", columns) + b"\x86"
    return empty + b"(K\x01" + shape + kind + b"\x89" + python2_string(array.tobytes()) + b"tb"


def python2_dict(**entries: bytes) -> bytes:
    items = b"".join(python2_string(key.encode()) + value for key, value in entries.items())
    return b"\x80\x02}(" + items + b"u."


def load(tmp_path, content: bytes):
    path = tmp_path / "file"
    path.write_bytes(content)
    return restricted_pickle.load(path)


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_reads_what_python_2_wrote(tmp_path, module):
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    content = python2_dict(
        data=python2_array(array, module), fine_labels=b"](K\x05K\x07e", batch_label=python2_string(b"x")
    )
    found = load(tmp_path, content)
    assert found[b"fine_labels"] == [5, 7]
    assert found[b"batch_label"] == b"x"
    assert found[b"data"].dtype == np.uint8
    np.testing.assert_array_equal(found[b"data"], array)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_reads_what_python_3_writes(tmp_path, protocol):
    rows = {b"data": np.arange(6, dtype=np.uint8).reshape(2, 3), "names": [b"\xff\x00a", "b"], b"n": 3}
    found = load(tmp_path, pickle.dumps(rows, protocol=protocol))
    np.testing.assert_array_equal(found.pop(b"data"), rows.pop(b"data"))
    assert found == rows


class Hostile:
    def __reduce__(self):
        return print, ("this must not be printed",)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (pickle.dumps({b"data": Hostile()}), r"builtins\.print"),
        (b"cos\nsystem\n(S'echo'\ntR.", r"os\.system"),
        (pickle.dumps(collections.OrderedDict(a=1)), r"collections\.OrderedDict"),
        (b"cnumpy\nload\n.", r"numpy\.load"),
        (b"cnumpy.core.multiarray\n_reconstruct.__class__\n.", r"_reconstruct\.__class__"),
    ],
)
def test_refuses_other_globals_and_names_them(tmp_path, capsys, content, named):
    with pytest.raises(DataError, match=named):
        load(tmp_path, content)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(np.array([print], dtype=object), protocol=2),
        pickle.dumps(np.zeros(3, dtype=np.float64), protocol=2),
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nJ\xff\xff\xff\x7f\x85C\x01b\x87R.",
    ],
    ids=["object", "float64", "huge"],
)
def test_refuses_other_arrays(tmp_path, content):
    with pytest.raises(DataError, match="damaged pickle"):
        load(tmp_path, content)


def test_damaged_and_missing_files_are_named(tmp_path):
    whole = pickle.dumps({b"data": np.zeros((2, 3), np.uint8)}, protocol=4)
    with pytest.raises(DataError, match="file: damaged pickle"):
        load(tmp_path, whole[: len(whole) // 2])
    with pytest.raises(DataError, match="file: damaged pickle"):
        load(tmp_path, b"")
    with pytest.raises(DataError, match="absent: no such file"):
        restricted_pickle.load(tmp_path / "absent")
