import json
import shutil

import pytest
import torch
from PIL import Image

import tkd_search
from tests.cli.calling import call
from tests.export.conftest import BIG, write
from tests.tracking.synthetic import synthetic_search
from tkd_search.data import plain_batches
from tkd_search.export import export_student
from tkd_search.export.onnx_file import export_onnx, run, session, verify
from tkd_search.export.scoring import score

onnx = pytest.importorskip("onnx", reason="needs the extra `export`")
pytest.importorskip("onnxruntime", reason="needs the extra `export`")


@pytest.fixture(scope="module")
def exported(tmp_path_factory, shipped, digits):
    folder = tmp_path_factory.mktemp("exported") / "0012"
    shutil.copytree(shipped, folder)
    return export_student(folder, digits, int8=True)


def test_onnx_computes_what_pytorch_computes(exported, digits):
    model, _ = tkd_search.load(exported.folder)
    ((images, labels),) = plain_batches(digits.test, mean=digits.mean, std=digits.std, batch_size=1000)
    opened = session(exported.folder / "model.onnx")
    with torch.inference_mode():
        expected = model(images)
    for size in (1, 7, len(images)):
        torch.testing.assert_close(run(opened, images[:size]), expected[:size], rtol=1e-3, atol=1e-4)
    right = (expected.argmax(1) == labels).double().mean().item()
    assert exported.test.accuracy == pytest.approx(right)
    assert exported.onnx.same == exported.onnx.samples == 256
    assert exported.onnx.difference < 1e-3


def test_the_file_says_what_it_is_and_tells_no_paths(exported, digits):
    proto = onnx.load(str(exported.folder / "model.onnx"))
    assert {one.domain: one.version for one in proto.opset_import}[""] == 18
    facts = {one.key: one.value for one in proto.metadata_props}
    assert facts["classes"].split("\n") == list(digits.classes)
    assert facts["size"] == "8"
    shape = proto.graph.input[0].type.tensor_type.shape.dim
    assert shape[0].dim_param
    assert [one.dim_value for one in shape[1:]] == [1, 8, 8]
    assert b"site-packages" not in (exported.folder / "model.onnx").read_bytes()


def test_int8_is_smaller_and_measured(exported, digits):
    assert exported.int8_bytes < exported.onnx_bytes  # of so small a network the graph is the larger part
    batches = plain_batches(digits.validation, mean=digits.mean, std=digits.std)
    opened = session(exported.folder / "model.int8.onnx")
    found = score(lambda images: run(opened, images), batches, digits.classes)
    assert found.accuracy == exported.int8_validation.accuracy
    plain = json.loads((exported.folder / "student.json").read_text())["figures"]
    assert plain["int8"]["val_accuracy"] == found.accuracy
    assert plain["int8"]["bytes"] == exported.int8_bytes
    assert "## int8" in (exported.folder / "README.md").read_text()


def test_describing_the_same_weights_again_keeps_what_was_measured(exported, digits, trained):
    write(exported.folder, digits, trained)
    assert "int8" in json.loads((exported.folder / "student.json").read_text())["figures"]


def test_a_wrong_export_is_refused(exported, digits):
    model, _ = tkd_search.load(exported.folder)
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    images = next(plain_batches(digits.test, mean=digits.mean, std=digits.std, batch_size=32))[0]
    with pytest.raises(RuntimeError, match="do not ship"):
        verify(exported.folder / "model.onnx", model, images)


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

    from tkd_search.tracking import write_summary

    record = synthetic_search(6)
    member = replace(record.front[0], trial_id="0012", path="students/0012")
    folder = tmp_path / "runs" / "digits"
    (folder / "students" / "0012").mkdir(parents=True)
    write(folder / "students" / "0012", digits, trained)
    write_summary(replace(record, front=(member,), big_model=BIG), folder)
    (folder / "config.yaml").write_text("name: digits\ndata:\n  name: digits\n")
    monkeypatch.chdir(tmp_path)
    done = call("export", "runs/digits", "12", "--output", "ship")
    assert done.code == 0, done.err
    assert "largest difference" in done.out
    assert sorted(path.name for path in (tmp_path / "ship").iterdir()) == [
        "README.md",
        "model.onnx",
        "model.safetensors",
        "student.json",
    ]
    assert "TRIAL: found 99" in call("export", "runs/digits", "99").err


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet18", "shufflenet_v2_x0_5", "vit_b_16", "squeezenet1_0", "regnet_y_400mf"]
)
def test_other_architectures_export(tmp_path, name):
    from tkd_search.export.student_description import Preprocessing, StudentDescription
    from tkd_search.models import build_student
    from tkd_search.models.model_settings import StudentSettings

    settings = StudentSettings(name=name, width=1.0 if name != "resnet18" else 0.25)
    student = build_student(settings, classes=4, channels=3, size=32)
    description = StudentDescription(
        name=name,
        trial_id="0000",
        architecture=settings,
        preprocessing=Preprocessing(channels=3, size=32, mean=(0.5,) * 3, std=(0.5,) * 3),
        classes=("a", "b", "c", "d"),
    )
    model = student.model.eval()
    path = export_onnx(model, description, tmp_path / "model.onnx")
    assert verify(path, model, torch.randn(5, 3, 32, 32)).samples == 5
