import pickle

import numpy as np
import pytest

from fastadv.train import cifar100
from fastadv.train.errors import DataError

ROWS = {"train": 12, "test": 5}


@pytest.fixture
def splits():
    random = np.random.default_rng(0)
    return {
        split: (random.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8), random.integers(0, 100, n))
        for split, n in ROWS.items()
    }


def write_python(folder, splits, *, key=str.encode):
    folder.mkdir(parents=True, exist_ok=True)
    for split, (images, labels) in splits.items():
        rows = {key("data"): images.reshape(-1, 3072), key("fine_labels"): labels.tolist()}
        (folder / split).write_bytes(pickle.dumps(rows, protocol=2))
    names = {key("fine_label_names"): [key(f"name {label}") for label in range(100)]}
    (folder / "meta").write_bytes(pickle.dumps(names, protocol=2))


def write_binary(folder, splits):
    folder.mkdir(parents=True, exist_ok=True)
    for split, (images, labels) in splits.items():
        rows = [bytes([99, label]) + image.tobytes() for image, label in zip(images, labels, strict=True)]
        (folder / f"{split}.bin").write_bytes(b"".join(rows))


def assert_same(found, expected):
    for split, (images, labels) in expected.items():
        np.testing.assert_array_equal(found[split][0], images)
        np.testing.assert_array_equal(found[split][1], labels)
        assert found[split][1].dtype == np.int64


@pytest.mark.parametrize("key", [str.encode, str], ids=["bytes keys", "str keys"])
@pytest.mark.parametrize("inside", [True, False])
def test_python_layout(tmp_path, splits, key, inside):
    write_python(tmp_path / "cifar-100-python", splits, key=key)
    found, names = cifar100.read(tmp_path if inside else tmp_path / "cifar-100-python", ROWS)
    assert_same(found, splits)
    assert names[7] == "name 7"


@pytest.mark.parametrize("inside", [True, False])
def test_binary_layout_holds_the_same_images(tmp_path, splits, inside):
    write_binary(tmp_path / "cifar-100-binary", splits)
    found, names = cifar100.read(tmp_path if inside else tmp_path / "cifar-100-binary", ROWS)
    assert_same(found, splits)
    assert names[7] == "7"


def test_binary_layout_reads_the_names(tmp_path, splits):
    write_binary(tmp_path, splits)
    (tmp_path / "fine_label_names.txt").write_text("\n".join(f"name-{label}" for label in range(100)))
    assert cifar100.read(tmp_path, ROWS)[1][7] == "name-7"


def test_missing_layout_and_files_are_named(tmp_path, splits):
    with pytest.raises(DataError, match=r"neither cifar-100-python/train nor cifar-100-binary/train\.bin"):
        cifar100.read(tmp_path)
    write_python(tmp_path, splits)
    (tmp_path / "test").unlink()
    with pytest.raises(DataError, match="test: no such file"):
        cifar100.read(tmp_path, ROWS)


def test_the_official_number_of_images_is_expected(tmp_path, splits):
    write_python(tmp_path, splits)
    with pytest.raises(DataError, match="train has 12 images, expected 50000"):
        cifar100.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.pop(b"fine_labels"), "no entry 'fine_labels'"),
        (lambda rows: rows.update({b"fine_labels": [1, 2]}), "not a list of 12 integers"),
        (lambda rows: rows.update({b"fine_labels": [b"1"] * 12}), "not a list of 12 integers"),
        (lambda rows: rows.update({b"fine_labels": [100] * 12}), "expected 0..99"),
        (lambda rows: rows.update({b"data": rows[b"data"][:, :-1].copy()}), r"uint8 \(12, 3071\), expected uint8"),
        (lambda rows: rows.update({b"data": [1]}), "'data' is list"),
    ],
)
def test_rows_of_the_wrong_kind_are_refused(tmp_path, splits, change, message):
    write_python(tmp_path, splits)
    rows = pickle.loads((tmp_path / "train").read_bytes())
    change(rows)
    (tmp_path / "train").write_bytes(pickle.dumps(rows, protocol=2))
    with pytest.raises(DataError, match=message):
        cifar100.read(tmp_path, ROWS)


def test_a_cut_binary_file_is_refused(tmp_path, splits):
    write_binary(tmp_path, splits)
    whole = (tmp_path / "train.bin").read_bytes()
    (tmp_path / "train.bin").write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"train\.bin: 36887 bytes, expected a multiple of 3074"):
        cifar100.read(tmp_path, ROWS)
    (tmp_path / "train.bin").write_bytes(whole[:-3074])
    with pytest.raises(DataError, match="train has 11 images, expected 12"):
        cifar100.read(tmp_path, ROWS)
