import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import tkd_search
from tests.export.conftest import write
from tkd_search.data import plain_batches
from tkd_search.distill.training.evaluation import evaluate
from tkd_search.errors import UserError
from tkd_search.export.model_card import card
from tkd_search.export.scoring import labelled_files, score
from tkd_search.export.student_description import Preprocessing, read_description
from tkd_search.export.transform import Transform
from tkd_search.models.image_input import ImageInput, rendering


def test_a_student_comes_back_as_it_was(shipped, trained, digits):
    model, transform = tkd_search.load(shipped)
    assert not model.training
    ((images, labels),) = plain_batches(digits.test, mean=digits.mean, std=digits.std, batch_size=1000)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), trained[1](images).logits, rtol=1e-4, atol=1e-4)
        again = transform.batch(list(digits.test.images[:50]))
    torch.testing.assert_close(again, images[:50].contiguous())
    assert evaluate(model, [(images, labels)]) > 0.5
    for name in ("model.safetensors", "student.json"):
        assert tkd_search.load(shipped / name)[0] is not None


def test_the_description_says_all_that_is_needed(shipped, digits):
    plain = json.loads((shipped / "student.json").read_text())
    assert plain["schema"] == 1
    assert plain["preprocessing"] == {
        "channels": 1,
        "size": 8,
        "mean": list(digits.mean),
        "std": list(digits.std),
        "stored_size": None,
    }
    assert plain["classes"] == [str(digit) for digit in range(10)]
    assert plain["architecture"]["width"] == 0.1
    assert plain["figures"]["bytes"] == (shipped / "model.safetensors").stat().st_size
    assert plain["provenance"]["dataset_digest"] == digits.digest
    card = (shipped / "README.md").read_text()
    for words in ("90.00%", "student.width: 0.1", "tkd_search.load", "2.5 ms", "[batch, 8, 8, 1]"):
        assert words in card


def test_a_student_of_its_own_input_size_reads_files_as_the_search_did(shipped, tmp_path, digits):
    folder = tmp_path / "0012"
    shutil.copytree(shipped, folder)
    plain = json.loads((folder / "student.json").read_text())
    plain["preprocessing"] |= {"size": 12, "stored_size": 8}
    (folder / "student.json").write_text(json.dumps(plain))
    network, transform = tkd_search.load(folder)
    Image.fromarray(digits.test.images[0, 0].numpy()).save(tmp_path / "digit.png")
    given = ImageInput(size=8, mean=digits.mean, std=digits.std)
    ((images, _),) = plain_batches(digits.test.evenly(1), mean=digits.mean, std=digits.std)
    expected = rendering(given, replace(given, size=12))(images)
    assert torch.equal(transform(tmp_path / "digit.png"), expected[0])
    assert network(expected).shape == (1, 10)
    assert transform(torch.zeros(1, 12, 12, dtype=torch.uint8)).shape == (1, 12, 12)


def test_figures_that_are_not_known_yet_are_null_and_a_dash(tmp_path, digits, trained):
    write(tmp_path, digits, trained, test_accuracy=float("nan"))
    text = (tmp_path / "student.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["figures"]["test_accuracy"] is None
    assert "| test accuracy (measured once) | – |" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(("method", "words"), [("tkd", "distilled from"), ("ce", "without a teacher")])
def test_the_card_says_how_it_was_taught_where_that_was_not_searched(
    tmp_path, digits, trained, method, words
):
    write(tmp_path, digits, trained, method=method)
    assert words in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("onnx", "words"),
    [(False, "`python -m tkd_search export RUN 0012` makes it"), (True, "`model.onnx` holds")],
)
def test_the_card_of_a_network_of_ones_own_says_what_must_be_importable(shipped, onnx, words):
    theirs = read_description(shipped)
    own = replace(theirs, architecture=replace(theirs.architecture, name="my.nets:small"))
    text = card(own, onnx=onnx)
    assert "built by `small` of the module `my.nets`" in text
    assert "needs neither that module" in text
    assert words in text
    assert "importable" not in card(theirs, onnx=onnx)


def test_exchanged_weights_are_refused(tmp_path, digits, trained):
    write(tmp_path, digits, trained)
    path = tmp_path / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="other bytes"):
        tkd_search.load(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "json", "schema", "keys"])
def test_a_damaged_description_is_refused(tmp_path, shipped, damage):
    shutil.copytree(shipped, tmp_path / "s")
    path = tmp_path / "s" / "student.json"
    plain = json.loads(path.read_text())
    if damage == "missing":
        path.unlink()
    elif damage == "json":
        path.write_text("{")
    elif damage == "schema":
        path.write_text(json.dumps({**plain, "schema": 99}))
    else:
        path.write_text(json.dumps({"schema": 1}))
    with pytest.raises(UserError, match=r"student\.json"):
        tkd_search.load(tmp_path / "s")


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_any_mode_and_size_become_input(tmp_path, mode, channels):
    transform = Transform(
        Preprocessing(channels=channels, size=8, mean=(0.5,) * channels, std=(0.25,) * channels)
    )
    if mode == "I;16":
        picture = Image.fromarray(np.full((20, 30), 65535, dtype=np.uint16))
    else:
        picture = Image.new("L", (30, 20), 255).convert(mode)
    picture.save(tmp_path / "p.png")
    for given in (picture, tmp_path / "p.png", str(tmp_path / "p.png")):
        made = transform(given)
        assert made.shape == (channels, 8, 8)
        torch.testing.assert_close(made, torch.full_like(made, (1 - 0.5) / 0.25))


def test_arrays_and_tensors_must_fit():
    transform = Transform(Preprocessing(channels=3, size=4, mean=(0, 0, 0), std=(1, 1, 1)))
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    torch.testing.assert_close(transform(pixels), transform(torch.from_numpy(pixels).permute(2, 0, 1)))
    for wrong in (
        *(pixels[:3], pixels.astype(np.float32), pixels[:, :, 0], pixels[0, 0], pixels[None]),
        *(None, {"a": 1}, [[1], [1, 2]], np.array(["text"])),
    ):
        with pytest.raises(UserError, match="uint8 of shape"):
            transform(wrong)


def test_a_batch_needs_pictures_of_one_kind():
    transform = Transform(Preprocessing(channels=1, size=8, stored_size=4, mean=(0.5,), std=(0.25,)))
    with pytest.raises(UserError, match="images: found none"):
        transform.batch([])
    with pytest.raises(UserError, match="beside arrays"):
        transform.batch([Image.new("L", (9, 9)), np.zeros((8, 8), dtype=np.uint8)])


def test_floating_point_pictures_are_refused():
    transform = Transform(Preprocessing(channels=1, size=8, mean=(0.5,), std=(0.5,)))
    with pytest.raises(UserError, match="8 or 16 bits"):
        transform(Image.new("F", (8, 8), 0.5))


def test_a_file_that_is_no_picture_is_named(tmp_path):
    (tmp_path / "p.png").write_text("no picture")
    transform = Transform(Preprocessing(channels=1, size=4, mean=(0,), std=(1,)))
    with pytest.raises(UserError, match=r"p\.png"):
        transform(tmp_path / "p.png")


def test_scores_count_by_class():
    logits = {0: [1, 0, 0], 1: [0, 1, 0], 2: [1, 0, 0]}
    images = torch.tensor([0, 0, 1, 2])
    result = score(
        lambda batch: torch.tensor([logits[int(one)] for one in batch]),
        [(images[:3], torch.tensor([0, 0, 1])), (images[3:], torch.tensor([1]))],
        ("a", "b", "c"),
    )
    assert (result.accuracy, result.images) == (0.75, 4)
    assert result.macro_recall == pytest.approx((1.0 + 0.5) / 2)
    assert result.macro_f1 == pytest.approx((2 * 2 / 5 + 2 * 1 / 3) / 2)
    figures = [result.figure(name) for name in ("accuracy", "balanced_accuracy", "macro_f1")]
    assert figures == [result.accuracy, result.macro_recall, result.macro_f1]
    assert [(one.images, one.right) for one in result.classes] == [(2, 2), (2, 1), (0, 0)]


def test_folders_of_images(tmp_path):
    for name in ("a/1.png", "a/deep/2.JPG", "b/3.jpeg", "b/notes.txt", "b/.hidden.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = labelled_files(tmp_path, ("b", "a"))
    assert [(path.name, label) for path, label in found] == [("1.png", 1), ("2.JPG", 1), ("3.jpeg", 0)]
    (tmp_path / "c").mkdir()
    with pytest.raises(UserError, match="found c"):
        labelled_files(tmp_path, ("a", "b"))
    with pytest.raises(UserError, match="no subfolders"):
        labelled_files(tmp_path / "a" / "deep", ("a", "b"))
    with pytest.raises(UserError, match="no folder"):
        labelled_files(tmp_path / "nowhere", ("a",))
