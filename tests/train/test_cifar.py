import pickle
from functools import partial

import numpy as np
import pytest

from fastadv.train.data import cifar
from fastadv.train.data.cifar import CIFAR10, CIFAR100
from fastadv.train.runtime.errors import DataError

ROWS = {"train": 15, "test": 5}
both = pytest.mark.parametrize("kind", [CIFAR10, CIFAR100], ids=["CIFAR-10", "CIFAR-100"])


def make_splits(kind):
    random = np.random.default_rng(0)
    return {
        split: (random.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8), random.integers(0, kind.classes, n))
        for split, n in ROWS.items()
    }


def parts(files, splits):
    """The files of the layout with the images and labels of each."""
    for split, names in files.items():
        pieces = (np.split(array, len(names)) for array in splits[split])
        yield from zip(names, *pieces, strict=True)


def write_python(kind, folder, splits, *, key=str.encode):
    folder.mkdir(parents=True, exist_ok=True)
    for file, images, labels in parts(kind.files, splits):
        rows = {key("data"): images.reshape(-1, 3072), key(kind.labels): labels.tolist()}
        (folder / file).write_bytes(pickle.dumps(rows, protocol=2))
    file, names = kind.python_names
    content = {key(names): [key(f"name {label}") for label in range(kind.classes)]}
    (folder / file).write_bytes(pickle.dumps(content, protocol=2))


def write_binary(kind, folder, splits):
    folder.mkdir(parents=True, exist_ok=True)
    coarse = b"\x63" * (kind.label_bytes - 1)
    for file, images, labels in parts(kind.files, splits):
        rows = [coarse + bytes([label]) + image.tobytes() for image, label in zip(images, labels, strict=True)]
        (folder / f"{file}.bin").write_bytes(b"".join(rows))


def assert_same(found, expected):
    for split, (images, labels) in expected.items():
        np.testing.assert_array_equal(found[split][0], images)
        np.testing.assert_array_equal(found[split][1], labels)
        assert found[split][1].dtype == np.int64


@both
@pytest.mark.parametrize("key", [str.encode, str], ids=["bytes keys", "str keys"])
@pytest.mark.parametrize("inside", [True, False])
def test_python_layout(tmp_path, kind, key, inside):
    splits = make_splits(kind)
    write_python(kind, tmp_path / kind.python_folder, splits, key=key)
    found, names, *_ = cifar.read(kind, tmp_path if inside else tmp_path / kind.python_folder, ROWS)
    assert_same(found, splits)
    assert names[7] == "name 7"


@both
@pytest.mark.parametrize("inside", [True, False])
def test_binary_layout_holds_the_same_images(tmp_path, kind, inside):
    splits = make_splits(kind)
    write_binary(kind, tmp_path / kind.binary_folder, splits)
    found, names, *_ = cifar.read(kind, tmp_path if inside else tmp_path / kind.binary_folder, ROWS)
    assert_same(found, splits)
    assert names[7] == "7"


@both
def test_binary_layout_reads_the_names(tmp_path, kind):
    write_binary(kind, tmp_path, make_splits(kind))
    (tmp_path / kind.binary_names).write_text("\n".join(f"name-{label}" for label in range(kind.classes)) + "\n\n")
    assert cifar.read(kind, tmp_path, ROWS).class_names[7] == "name-7"


@both
def test_missing_layout_and_files_are_named(tmp_path, kind):
    first = kind.files["train"][0]
    message = rf"neither {kind.python_folder}/{first} nor {kind.binary_folder}/{first}.bin; .* {kind.name} archive"
    with pytest.raises(DataError, match=message):
        cifar.read(kind, tmp_path)
    write_python(kind, tmp_path, make_splits(kind))
    missing = kind.files["test"][0]
    (tmp_path / missing).unlink()
    with pytest.raises(DataError, match=f"{missing}: no such file"):
        cifar.read(kind, tmp_path, ROWS)


def test_the_other_dataset_is_not_taken_for_this_one(tmp_path):
    write_python(CIFAR10, tmp_path, make_splits(CIFAR10))
    with pytest.raises(DataError, match="expected the unpacked CIFAR-100 archive"):
        cifar.read(CIFAR100, tmp_path, ROWS)


@both
def test_the_official_number_of_images_is_expected(tmp_path, kind):
    write_python(kind, tmp_path, make_splits(kind))
    with pytest.raises(DataError, match="train has 15 images, expected 50000"):
        cifar.read(kind, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.pop(b"fine_labels"), "no entry 'fine_labels'"),
        (lambda rows: rows.update({b"fine_labels": [1, 2]}), "not a list of 15 integers"),
        (lambda rows: rows.update({b"fine_labels": [b"1"] * 15}), "not a list of 15 integers"),
        (lambda rows: rows.update({b"fine_labels": [100] * 15}), "expected 0..99"),
        (lambda rows: rows.update({b"data": rows[b"data"][:, :-1].copy()}), r"uint8 \(15, 3071\), expected uint8"),
        (lambda rows: rows.update({b"data": [1]}), "'data' is list"),
    ],
)
def test_rows_of_the_wrong_kind_are_refused(tmp_path, change, message):
    write_python(CIFAR100, tmp_path, make_splits(CIFAR100))
    rows = pickle.loads((tmp_path / "train").read_bytes())
    change(rows)
    (tmp_path / "train").write_bytes(pickle.dumps(rows, protocol=2))
    with pytest.raises(DataError, match=message):
        cifar.read(CIFAR100, tmp_path, ROWS)


def test_a_cut_binary_file_is_refused(tmp_path):
    read = partial(cifar.read, CIFAR100, tmp_path, ROWS)
    write_binary(CIFAR100, tmp_path, make_splits(CIFAR100))
    whole = (tmp_path / "train.bin").read_bytes()
    (tmp_path / "train.bin").write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"train\.bin: 46109 bytes, expected a multiple of 3074"):
        read()
    (tmp_path / "train.bin").write_bytes(whole[:-3074])
    with pytest.raises(DataError, match="train has 14 images, expected 15"):
        read()
