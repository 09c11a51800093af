"""Folders of image files: any, and Tiny-ImageNet's."""

import json
import shutil

import numpy as np
import pytest
import torch

from fastadv.train.cli import main
from fastadv.train.data import datasets, image_files as pictures, image_folder, tiny_imagenet
from fastadv.train.data.splits import to_pixels
from fastadv.train.networks import catalogue
from fastadv.train.runtime.errors import ConfigError, DataError

Image = pytest.importorskip("PIL.Image")


def picture(seed, width=8, height=8, mode="RGB"):
    channels = () if mode == "L" else (3,)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    return Image.fromarray(pixels)


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture
def folder(tmp_path):
    """Two classes, three and two images to train, one each to test."""
    for seed, name in enumerate(["train/cat/b.png", "train/cat/a.png", "train/cat/c.PNG", "train/ant/x.bmp"]):
        save(picture(seed), tmp_path / name)
    save(picture(4, mode="L"), tmp_path / "train/ant/y.png")
    save(picture(5), tmp_path / "val/cat/z.png")
    save(picture(6), tmp_path / "val/ant/z.png")
    (tmp_path / "train/cat/notes.txt").write_text("no image")
    return tmp_path


def test_a_folder_is_read_by_class_and_name(folder):
    splits, names, *_ = image_folder.read(folder, None)
    assert names == ("ant", "cat")
    images, labels = splits["train"]
    assert labels.tolist() == [0, 0, 1, 1, 1]
    expected = [np.asarray(picture(seed)).transpose(2, 0, 1) for seed in (3, 1, 0, 2)]
    np.testing.assert_array_equal(images[[0, 2, 3, 4]], np.stack(expected))
    grey = np.asarray(picture(4, mode="L"))
    np.testing.assert_array_equal(images[1], np.stack([grey] * 3))
    assert (images.dtype, splits["test"][1].tolist()) == (np.uint8, [0, 1])


def test_files_that_are_no_images_by_their_suffix_are_counted(folder, capsys):
    for name in ("x.xcf", ".hidden", "y.XCF"):
        (folder / "train" / "ant" / name).write_text("")
    picture(9, mode="L").save(folder / "train" / "ant" / "gray.PGM", format="PPM")
    assert len(datasets.load("folder", data_dir=folder).train) == 6
    said = capsys.readouterr().out
    assert f"{folder / 'train'}: left out as no images, by their suffix: 3 (.XCF, .txt, .xcf)\n" in said
    assert str(folder / "val") not in said


def test_a_test_split_goes_before_a_validation_split(folder):
    shutil.copytree(folder / "val", folder / "test")
    save(picture(9), folder / "test/ant/another.png")
    assert len(image_folder.read(folder, None).splits["test"][1]) == 3


def test_the_dataset_of_a_folder_knows_its_own_statistics(folder):
    dataset = datasets.load("folder", data_dir=folder)
    pixels = dataset.train.images.double() / 255
    assert dataset.mean == pytest.approx(pixels.mean(dim=(0, 2, 3)).tolist())
    assert dataset.std == pytest.approx(pixels.std(dim=(0, 2, 3), correction=0).tolist())
    assert (dataset.image_shape, dataset.class_names) == ((3, 8, 8), ("ant", "cat"))
    assert dataset.train.labels.dtype == torch.int64


def test_images_are_scaled_to_fill_and_cut_around_the_centre(folder):
    wide = np.zeros((8, 24, 3), dtype=np.uint8)
    wide[:, 8:16] = 200
    save(Image.fromarray(wide), folder / "train/ant/x.bmp")
    images, _ = image_folder.read(folder, 8).splits["train"]
    assert (images[0] == 200).all()
    assert datasets.load("folder", data_dir=folder, image_size=4).image_shape == (3, 4, 4)
    with pytest.raises(DataError, match=r"8x8 pixels.* has 24x8; expected image_size, or images of one size"):
        image_folder.read(folder, None)


def test_splits_of_different_sizes_are_refused(folder):
    for name in ("cat", "ant"):
        save(picture(5, width=9), folder / f"val/{name}/z.png")
    with pytest.raises(DataError, match=r"images of \(8, 8\) in train, of \(8, 9\) in val"):
        image_folder.read(folder, None)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder / "val"), r"expected train/CLASS/\* and test/CLASS/\* or val"),
        (lambda folder: shutil.rmtree(folder / "val/ant"), "train and val differ in the classes ant"),
        (lambda folder: (folder / "val/ant/z.png").unlink(), "ant: no images"),
        (lambda folder: (folder / "train/cat/a.png").write_bytes(b"text"), r"a\.png: no readable image"),
        (lambda folder: cut(folder / "train/cat/a.png"), r"a\.png: no readable image"),
        (lambda folder: [shutil.rmtree(folder / split / "ant") for split in ("train", "val")], "1 folders.*at least 2"),
    ],
)
def test_what_is_missing_or_damaged_is_named(folder, damage, message):
    damage(folder)
    with pytest.raises(DataError, match=message):
        image_folder.read(folder, None)


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_decoded_images_are_kept_until_a_file_changes(folder, monkeypatch, capsys):
    first = image_folder.read(folder, None).splits["train"][0]
    decode = pictures._decode
    monkeypatch.setattr(pictures, "_decode", lambda *_: pytest.fail("decoded again"))
    np.testing.assert_array_equal(image_folder.read(folder, None).splits["train"][0], first)

    monkeypatch.setattr(pictures, "_decode", decode)
    save(picture(8), folder / "train/ant/x.bmp")
    changed = image_folder.read(folder, None).splits["train"][0]
    np.testing.assert_array_equal(changed[0], np.asarray(picture(8)).transpose(2, 0, 1))
    assert image_folder.read(folder, 4).splits["train"][0].shape == (5, 3, 4, 4)

    cut(folder / ".fastadv" / "train-own-size.npz")
    np.testing.assert_array_equal(image_folder.read(folder, None).splits["train"][0], changed)
    assert "train-own-size.npz is damaged and made anew" in capsys.readouterr().out


def test_images_are_read_where_they_cannot_be_kept(folder, capsys):
    (folder / ".fastadv").write_text("a file in the way")
    assert image_folder.read(folder, None).splits["train"][0].shape == (5, 3, 8, 8)
    assert "not kept for the next run" in capsys.readouterr().out


def all_train(folder, image, suffix, count=4):
    """A folder of copies of one image, in a format."""
    for name in [f"train/cat/{number}.{suffix}" for number in range(count)]:
        save(image, folder / name)
    for name in (f"train/ant/0.{suffix}", f"val/cat/0.{suffix}", f"val/ant/0.{suffix}"):
        save(image, folder / name)
    return image_folder.read(folder, None).splits["train"][0]


LEVELS = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_images_of_16_bits_keep_their_levels(tmp_path, suffix):
    images = all_train(tmp_path, Image.fromarray(LEVELS), suffix)
    assert (images.dtype, images.shape) == (np.float32, (5, 3, 8, 8))
    np.testing.assert_allclose(images[0, 1], LEVELS / 65535, atol=1e-7)
    dataset = datasets.load("folder", data_dir=tmp_path)
    pixels = to_pixels(dataset.train.images)
    assert torch.equal(pixels, dataset.train.images)
    assert dataset.mean == pytest.approx(pixels.double().mean(dim=(0, 2, 3)).tolist())
    assert dataset.std == pytest.approx(pixels.double().std(dim=(0, 2, 3), correction=0).tolist())


def test_floats_keep_their_levels_within_the_range_of_pixels(tmp_path):
    levels = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    np.testing.assert_array_equal(all_train(tmp_path, Image.fromarray(levels), "tif")[0, 0], levels)
    save(Image.fromarray(2 * levels), tmp_path / "train/cat/0.tif")
    with pytest.raises(DataError, match=r"0\.tif: floats from 0 to 2, expected within \[0, 1\]"):
        image_folder.read(tmp_path, None)


def test_palettes_and_single_bits_have_their_colours(tmp_path):
    colours = picture(3).quantize(16)
    np.testing.assert_array_equal(
        all_train(tmp_path / "p", colours, "png")[0], np.asarray(colours.convert("RGB")).transpose(2, 0, 1)
    )
    bits = Image.fromarray((LEVELS > 30000).astype(np.uint8) * 255).convert("1")
    np.testing.assert_array_equal(all_train(tmp_path / "b", bits, "png")[0, 0], (LEVELS > 30000) * 255)


def test_an_opaque_alpha_is_passed_over_and_another_refused(tmp_path):
    opaque = picture(3).convert("RGBA")
    np.testing.assert_array_equal(all_train(tmp_path, opaque, "png")[0], np.asarray(picture(3)).transpose(2, 0, 1))
    opaque.putpixel((0, 0), (1, 2, 3, 100))
    save(opaque, tmp_path / "train/cat/0.png")
    with pytest.raises(DataError, match=r"0\.png: transparent in places, expected an opaque image"):
        image_folder.read(tmp_path, None)


@pytest.mark.parametrize(
    ("image", "suffix", "message"),
    [
        (lambda: Image.fromarray(LEVELS.astype(np.int32)), "tif", "integers of 32 bits, whose range is not known"),
        (lambda: picture(1), "png", "uint8 levels, but .* has float32; expected one of both"),
    ],
)
def test_levels_that_would_be_lost_are_named(tmp_path, image, suffix, message):
    all_train(tmp_path, Image.fromarray(LEVELS), suffix)
    save(image(), tmp_path / f"train/cat/1.{suffix}")
    with pytest.raises(DataError, match=message):
        image_folder.read(tmp_path, None)


def test_a_folder_may_be_read_as_one_channel(tmp_path):
    all_train(tmp_path, picture(2, mode="L"), "png")
    dataset = datasets.load("folder", data_dir=tmp_path, grayscale=True)
    assert dataset.image_shape == (1, 8, 8)
    np.testing.assert_array_equal(dataset.train.images[0, 0].numpy(), np.asarray(picture(2, mode="L")))
    assert datasets.load("folder", data_dir=tmp_path).image_shape == (3, 8, 8)
    with pytest.raises(ConfigError, match="grayscale: True, expected no with digits"):
        datasets.load("digits", grayscale=True)


@pytest.fixture
def tiny(tmp_path):
    """Tiny-ImageNet's layout with 2 classes, 3 images to train each and 2 to validate in all."""
    root = tmp_path / "tiny-imagenet-200"
    for wnid in ("n02", "n01"):
        for index in range(3):
            save(picture(index, 64, 64), root / "train" / wnid / "images" / f"{wnid}_{index}.JPEG")
    rows = []
    for index, wnid in enumerate(["n02", "n01"]):
        save(picture(index, 64, 64, mode="L"), root / "val" / "images" / f"val_{index}.JPEG")
        rows.append(f"val_{index}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(rows))
    (root / "words.txt").write_text("n00\tentity\nn01\tgoldfish, Carassius auratus\n")
    return tmp_path


SMALL = {"classes": 2, "rows": {"train": 6, "test": 2}}


@pytest.mark.parametrize("inside", [True, False])
def test_tiny_imagenet_is_read_in_the_order_of_its_wnids(tiny, inside):
    splits, names, *_ = tiny_imagenet.read(tiny if inside else tiny / "tiny-imagenet-200", **SMALL)
    assert names == ("goldfish", "n02")
    images, labels = splits["train"]
    assert (images.shape, labels.tolist()) == ((6, 3, 64, 64), [0, 0, 0, 1, 1, 1])
    images, labels = splits["test"]
    assert (images.shape, labels.tolist()) == ((2, 3, 64, 64), [1, 0])
    assert (images[:, 0] == images[:, 2]).all()


def test_tiny_imagenet_is_resized_where_asked(tiny):
    assert tiny_imagenet.read(tiny, 32, **SMALL).splits["train"][0].shape == (6, 3, 32, 32)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "val/val_annotations.txt").unlink(), "expected tiny-imagenet-200 with train/WNID/images"),
        (
            lambda root: (root / "val/val_annotations.txt").write_text("a.JPEG\tn07\n"),
            "'a.JPEG n07', expected a file and",
        ),
        (lambda root: (root / "val/images/val_1.JPEG").unlink(), r"val_1\.JPEG: no such file"),
        (lambda root: (root / "train/n01/images/n01_2.JPEG").unlink(), "train has 5 images, expected 6"),
        (lambda root: shutil.rmtree(root / "train/n01/images"), "n01/images: no such folder"),
        (lambda root: shutil.rmtree(root / "train/n01"), "1 folders, expected 2"),
        (lambda root: cut(root / "val/images/val_0.JPEG"), r"val_0\.JPEG: no readable image"),
    ],
)
def test_what_tiny_imagenet_lacks_is_named(tiny, damage, message):
    damage(tiny / "tiny-imagenet-200")
    with pytest.raises(DataError, match=message):
        tiny_imagenet.read(tiny, **SMALL)


def test_tiny_imagenet_has_200_classes(tiny):
    with pytest.raises(DataError, match="2 folders, expected 200"):
        datasets.load("tiny-imagenet", data_dir=tiny)


def test_only_folders_of_images_are_resized(tmp_path):
    with pytest.raises(
        ConfigError, match="image_size: 16, expected none with cifar10; it is for tiny-imagenet and folder"
    ):
        datasets.load("cifar10", data_dir=tmp_path, image_size=16)


def test_the_first_test_images_of_a_folder_are_a_random_draw(tmp_path):
    """In the order of their names they would be one class."""
    for label, name in enumerate("abcd"):
        for number in range(20):
            save(Image.new("L", (4, 4), 20 * label + number), tmp_path / "test" / name / f"{number:02d}.png")
        save(picture(label, 4, 4), tmp_path / "train" / name / "x.png")
    splits = [image_folder.read(tmp_path, None).splits["test"] for _ in range(2)]
    (images, labels), (again, _) = splits
    assert sorted(images[:, 0, 0, 0].tolist()) == [20 * label + number for label in range(4) for number in range(20)]
    assert (images[:, 0, 0, 0] // 20 == labels).all()
    assert (images == again).all()
    counts = np.bincount(labels[:40], minlength=4)
    assert counts.min() >= 5
    assert len(set(counts)) > 1  # a draw of the images, not so many of each class


def test_an_evaluation_on_a_folder_says_which_images_and_is_not_mixed_with_one_in_another_order(folder, capsys):
    state = catalogue.build("resnet8", num_classes=2, image_shape=(3, 8, 8)).state_dict()
    torch.save(state, folder / "weights.pt")
    options = ["--model=resnet8", f"--checkpoint={folder / 'weights.pt'}", "--data=folder", f"--data-dir={folder}"]
    out = folder / "result"
    assert main(["attack", *options, "--steps=1", "--n=1", f"--out={out}"]) == 0
    order = "in a random order, always the same"
    assert f"the first 1 of the test split of folder, {order}; the first 1 test" in (out / "report.md").read_text()
    assert main(["attack", "--resume", f"--out={out}", "--n=2"]) == 0
    origin = json.loads((out / "origin.json").read_text())
    assert origin.pop("Test images") == order
    (out / "origin.json").write_text(json.dumps(origin))
    assert main(["attack", "--resume", f"--out={out}"]) == 2
    assert "Test images not known -> in a random order" in capsys.readouterr().err
