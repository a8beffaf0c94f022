import contextlib
import json
import shutil

import onnx
import pytest
import torch
from PIL import Image

import tkd_search
from tests.cli.calling import call
from tests.export.conftest import BIG, write, write_cut
from tests.tracking.synthetic import synthetic_search
from tkd_search.data import plain_batches
from tkd_search.errors import UserError
from tkd_search.export import copy_student, export_student
from tkd_search.export.onnx_file import OnnxNetwork, verify
from tkd_search.export.scoring import score


@pytest.fixture(scope="module")
def exported(tmp_path_factory, shipped, digits):
    folder = tmp_path_factory.mktemp("exported") / "0012"
    shutil.copytree(shipped, folder)
    return export_student(folder, digits)


def test_the_onnx_file_computes_what_the_weights_compute(exported, digits):
    model, _ = tkd_search.load(exported.folder)
    ((images, labels),) = plain_batches(digits.test, mean=digits.mean, std=digits.std, batch_size=1000)
    opened = OnnxNetwork(exported.folder / "model.onnx")
    with torch.inference_mode():
        expected = model(images)
    for size in (1, 7, len(images)):
        torch.testing.assert_close(opened(images[:size]), expected[:size], rtol=1e-3, atol=1e-4)
    right = (expected.argmax(1) == labels).double().mean().item()
    assert exported.test.accuracy == pytest.approx(right)
    assert exported.verified.same == exported.verified.samples == 256
    assert exported.verified.difference < 1e-3


@pytest.mark.parametrize("format", ["fp16", "int8", "int4"])
def test_a_student_is_converted_to_a_smaller_format_and_measured(exported, digits, format):
    made = export_student(exported.folder, digits, format=format)
    weights, onnx_file = (exported.folder / f"model.{format}.{end}" for end in ("safetensors", "onnx"))
    assert made.bytes == weights.stat().st_size < exported.bytes / 1.9
    assert made.onnx_bytes == onnx_file.stat().st_size < exported.onnx_bytes
    batches = plain_batches(digits.validation, mean=digits.mean, std=digits.std)
    found = score(OnnxNetwork(onnx_file), batches, digits.classes).accuracy
    assert found == made.validation.accuracy > exported.validation.accuracy - 0.1
    figures = json.loads((exported.folder / "student.json").read_text())["figures"]["formats"][format]
    assert (figures["val_accuracy"], figures["bytes"]) == (found, made.bytes)
    assert f"| {format} |" in (exported.folder / "README.md").read_text()
    assert (exported.folder / "model.safetensors").stat().st_size == exported.bytes


def test_a_cut_is_loaded_from_a_copy_of_its_exported_files(tmp_path, digits):
    made = export_student(write_cut(tmp_path / "student", digits), digits)
    copy_student(made, tmp_path / "copy")
    copied, _ = tkd_search.load(tmp_path / "copy")
    original, _ = tkd_search.load(tmp_path / "student")
    images = torch.randn(4, 1, 8, 8)
    assert torch.equal(copied(images), original(images))


def test_the_onnx_file_has_no_paths_and_a_dynamic_batch(exported):
    proto = onnx.load(str(exported.folder / "model.onnx"))
    shape = proto.graph.input[0].type.tensor_type.shape.dim
    assert shape[0].dim_param
    assert [one.dim_value for one in shape[1:]] == [1, 8, 8]
    assert b"site-packages" not in (exported.folder / "model.onnx").read_bytes()


def test_describing_the_same_weights_again_keeps_the_figures_of_formats(exported, digits, trained):
    before = (exported.folder / "model.safetensors").read_bytes()
    write(exported.folder, digits, trained)
    assert (exported.folder / "model.safetensors").read_bytes() == before
    assert "formats" in json.loads((exported.folder / "student.json").read_text())["figures"]


def test_a_wrong_onnx_file_is_refused(exported, digits):
    model, _ = tkd_search.load(exported.folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    images = next(plain_batches(digits.test, mean=digits.mean, std=digits.std, batch_size=128))[0]
    with pytest.raises(RuntimeError, match="do not ship"):
        verify(OnnxNetwork(exported.folder / "model.onnx"), model, images, "fp32")


@pytest.mark.parametrize(
    ("format", "differing", "refused"), [("int8", 10, False), ("int8", 11, True), ("fp32", 2, True)]
)
def test_only_int8_may_differ_on_images_near_a_boundary(format, differing, refused):
    images = torch.eye(2).repeat(50, 1)
    changed = images.clone()
    changed[:differing] = changed[:differing].flip(1)
    context = pytest.raises(RuntimeError, match="do not ship") if refused else contextlib.nullcontext()
    with context:
        assert verify(lambda _: changed, lambda given: given, images, format).same == 100 - differing


def test_the_file_as_written_computes_the_same(exported, digits):
    opened = OnnxNetwork(exported.folder / "model.onnx")
    images = next(plain_batches(digits.test, mean=digits.mean, std=digits.std, batch_size=128))[0]
    torch.testing.assert_close(opened.as_written()(images), opened(images), rtol=1e-3, atol=1e-4)


def test_weights_in_another_format_are_not_taken_for_the_students_own(exported, digits):
    made = export_student(exported.folder, digits, format="int8")
    with pytest.raises(UserError, match=r"model\.int8\.onnx"):
        tkd_search.load(made.files[0])


def test_evaluate_scores_pictures_in_folders(exported, digits, tmp_path):
    expected = 0
    model, transform = tkd_search.load(exported.folder)
    for place in range(40):
        image, label = digits.test.images[place], int(digits.test.labels[place])
        folder = tmp_path / "images" / digits.classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(folder / f"{place}.png")
        with torch.inference_mode():
            expected += int(model(transform(image)[None]).argmax() == label)
    for path in (exported.folder, exported.folder / "model.onnx"):
        done = call("evaluate", path, "--data", tmp_path / "images", "--json", "--batch-size", "16")
        assert done.code == 0, done.err
        plain = json.loads(done.out)
        assert plain["images"] == 40
        assert plain["accuracy"] == pytest.approx(expected / 40)
    assert "macro recall" in call("evaluate", exported.folder, "--data", tmp_path / "images").out


@pytest.mark.slow
def test_export_of_a_run(tmp_path, digits, trained, monkeypatch):
    from dataclasses import replace

    from tkd_search.results.summary import write_summary

    record = synthetic_search(6)
    member = replace(record.front[0], trial_id="0012", path="students/0012")
    folder = tmp_path / "runs" / "digits"
    (folder / "students" / "0012").mkdir(parents=True)
    write(folder / "students" / "0012", digits, trained)
    write_summary(replace(record, front=(member,), big_model=BIG), folder)
    (folder / "config.yaml").write_text("name: digits\ndata:\n  name: digits\n")
    monkeypatch.chdir(tmp_path)
    for option in ([], ["--format", "int8"]):
        done = call("export", "runs/digits", "12", "--output", "ship", *option)
        assert done.code == 0, done.err
        assert "equal predictions on" in done.out
        names = sorted(path.name for path in (tmp_path / "ship").iterdir())
        assert names == ["README.md", "model.onnx", "model.safetensors", "student.json"]
        described = json.loads((tmp_path / "ship" / "student.json").read_text())
        assert described["figures"]["bytes"] == (tmp_path / "ship" / "model.safetensors").stat().st_size
        (images, _), *_ = plain_batches(digits.validation, mean=digits.mean, std=digits.std)
        loaded = tkd_search.load(tmp_path / "ship")[0](images).argmax(1)
        expected = OnnxNetwork(tmp_path / "ship" / "model.onnx")(images).argmax(1)
        assert (loaded == expected).float().mean() > 0.98
    assert described["name"].endswith("int8")
    assert described["architecture"]["format"] == "int8"
    assert "TRIAL: found 99" in call("export", "runs/digits", "99").err


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet18", "shufflenet_v2_x0_5", "vit_b_16", "squeezenet1_0", "regnet_y_400mf"]
)
def test_other_architectures_export(tmp_path, name):
    from tkd_search.export.shipping import write_files
    from tkd_search.models import build_student
    from tkd_search.models.model_settings import StudentSettings

    settings = StudentSettings(name=name, width=1.0 if name != "resnet18" else 0.25)
    model = build_student(settings, classes=4, channels=3, size=32).model.eval()
    onnx_file = write_files(model, "fp32", (3, 32, 32), tmp_path)
    images = torch.randn(5, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(onnx_file(images), model(images), rtol=1e-3, atol=1e-3)
