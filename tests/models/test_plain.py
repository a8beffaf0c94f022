"""The plain student has the documented size and refuses unknown arguments."""

import pytest
import torch

from tkd_search.errors import UserError
from tkd_search.models import build_student, model_parameters
from tkd_search.models.model_settings import StudentSettings

NAME = "tkd_search.models.plain:plain_cnn"


def test_size_and_maps_are_as_documented():
    student = build_student(StudentSettings(name=NAME), classes=10, channels=3, size=32).eval()
    assert model_parameters(student.model) == 24_346
    output = student(torch.randn(2, 3, 32, 32))
    assert output.logits.shape == (2, 10)
    assert output.maps.shape == (2, 64, 4, 4)
    assert torch.allclose(output.maps.mean((2, 3)), output.features, atol=1e-6)


@pytest.mark.parametrize("args", [{"widths": []}, {"depth": 3}])
def test_unknown_arguments_are_refused(args):
    with pytest.raises(UserError, match=r"student\.args"):
        build_student(StudentSettings(name=NAME, args=args), classes=10, channels=3, size=32)
