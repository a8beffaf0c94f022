import pytest
import torch

from tkd_search.data import DataSettings, load_data, plain_batches
from tkd_search.export import write_student
from tkd_search.export.shipping import write_files
from tkd_search.models import build_student, model_parameters
from tkd_search.models.model_settings import BigModelSettings, StudentSettings
from tkd_search.results.records import BigModelRecord, FrontMember

BIG = BigModelRecord(name="alexnet", bytes=900_000, parameters=220_000, val_accuracy=0.98, test_accuracy=0.98)


@pytest.fixture(scope="session")
def digits():
    return load_data(DataSettings())


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
