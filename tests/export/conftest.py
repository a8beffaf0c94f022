import json

import pytest
import torch

from tkd_search.data import plain_batches
from tkd_search.export import write_student
from tkd_search.export.shipping import calibrated, write_files
from tkd_search.models import build_student, model_parameters
from tkd_search.models.build import build_big_model
from tkd_search.models.model_settings import BigModelSettings, StudentSettings
from tkd_search.models.student_architecture import cut_student
from tkd_search.results.records import BigModelRecord, FrontMember

BIG = BigModelRecord(name="alexnet", bytes=900_000, parameters=220_000, val_accuracy=0.98, test_accuracy=0.98)


@pytest.fixture(scope="session")
def trained(digits):
    """A tiny student, trained for a few steps: enough to be far from chance."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    settings = StudentSettings(name="mobilenet_v2", width=0.1)
    student = build_student(settings, classes=10, channels=1, size=8)
    optimiser = torch.optim.AdamW(student.parameters(), lr=1e-2)
    ((images, labels),) = plain_batches(digits.train, mean=digits.mean, std=digits.std, batch_size=2000)
    student.train()
    for _ in range(6):
        for part in torch.randperm(len(labels)).split(128):
            loss = torch.nn.functional.cross_entropy(student(images[part]).logits, labels[part])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return settings, student.eval()


@pytest.fixture(scope="session")
def shipped(tmp_path_factory, digits, trained):
    """The student's folder as a search leaves it."""
    folder = tmp_path_factory.mktemp("students") / "0012"
    folder.mkdir()
    write(folder, digits, trained)
    return folder


def write(folder, digits, trained, test_accuracy=0.9, method="tkd"):
    settings, student = trained
    write_files(student.model, settings.format, (1, 8, 8), folder)
    size = (folder / "model.safetensors").stat().st_size
    member = FrontMember(
        trial_id="0012",
        student="mobilenet_v2 x0.10",
        bytes=size,
        parameters=model_parameters(student.model),
        ratio=size / BIG.bytes,
        val_accuracy=0.91,
        test_accuracy=test_accuracy,
        retention=test_accuracy / BIG.test_accuracy,
        config={"student.width": 0.1},
        path="students/0012",
        latency_ms={1: 2.5, 32: 9.0},
    )
    return write_student(
        folder,
        member,
        architecture=settings,
        big_model_settings=BigModelSettings(),
        method=method,
        data=digits,
        big_model=BIG,
        search="digits",
        seed=3,
        metric="accuracy",
    )


def write_cut(folder, digits):
    """Write an untrained int8 student cut from a small AlexNet and return its folder."""
    folder.mkdir()
    torch.set_num_threads(1)
    big_settings = BigModelSettings(width=0.2)
    architecture = StudentSettings(name="cut", width=0.3, format="int8")
    shape = {"classes": 10, "channels": 1, "size": 8}
    big_model = build_big_model(big_settings, **shape)
    batches = list(plain_batches(digits.validation, mean=digits.mean, std=digits.std, batch_size=64))
    student, record = cut_student(architecture, big_model, big_settings, **shape, batches=batches[:1], seed=0)
    write_files(calibrated(student.model.eval(), "int8", [batches[0][0]]), "int8", (1, 8, 8), folder)
    (folder / "cut.json").write_text(json.dumps(record))
    member = FrontMember(
        trial_id="0001",
        student="cut ×0.3",
        bytes=(folder / "model.safetensors").stat().st_size,
        parameters=1,
        ratio=0.1,
        val_accuracy=0.1,
        test_accuracy=0.1,
        retention=0.1,
        config={},
        path="students/0001",
        latency_ms={},
    )
    write_student(
        folder,
        member,
        architecture=architecture,
        big_model_settings=big_settings,
        method="kd",
        data=digits,
        big_model=BIG,
        search="digits",
        seed=0,
        metric="accuracy",
    )
    return folder
