"""A student returns matching logits, features and maps for every kind of wrapped network."""

import copy
import pickle
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn

from tests.models import nets
from tkd_search.distill.interfaces import StudentLike, StudentOutput
from tkd_search.models.student import Student
from tkd_search.models.torchvision_compat import torchvision

SHAPE = (3, 16, 16)

NETS: dict[str, tuple[Callable[[], nn.Module], int, bool]] = {
    # builder, width of h, has maps
    "functional_pool": (nets.FunctionalPool, 6, True),
    "dropout_head": (nets.DropoutHead, 6, True),
    "no_linear": (nets.NoLinear, 5, True),
    "hidden_layer": (nets.HiddenLayer, 7, False),
    "linear_after_logits": (nets.LinearAfterLogits, 6, True),
    "sequential": (lambda: nets.tiny(5), 6, True),
}


def randomised(student: Student) -> Student:
    """Run BatchNorm in training mode, so that its statistics are not the initial ones."""
    student.train()
    for seed in range(2):
        student(images(8, seed))
    return student.eval()


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=NETS, scope="module")
def case(request: pytest.FixtureRequest) -> tuple[Student, int, bool]:
    build, width, maps = NETS[request.param]
    torch.manual_seed(0)
    return randomised(Student(build(), SHAPE)), width, maps


class TestEveryNetwork:
    def test_logits_equal_those_of_the_network(self, case: tuple[Student, int, bool]) -> None:
        student, _, _ = case
        own = student.model(images(4))
        torch.testing.assert_close(student(images(4)).logits, own[0] if isinstance(own, tuple) else own)

    def test_classifying_the_features_gives_the_logits(self, case: tuple[Student, int, bool]) -> None:
        student, width, _ = case
        output = student(images(4))
        assert output.features.shape == (4, width) == (4, student.feature_width)
        torch.testing.assert_close(student.classify(output.features), output.logits)

    def test_the_features_are_the_mean_of_the_maps(self, case: tuple[Student, int, bool]) -> None:
        student, width, has_maps = case
        output = student(images(4))
        assert (student.roles.maps is not None) == has_maps == (output.maps is not None)
        if output.maps is not None:
            assert output.maps.shape[:2] == (4, width)
            torch.testing.assert_close(output.maps.mean((2, 3)), output.features)

    def test_features_of_any_leading_shape_are_classified(self, case: tuple[Student, int, bool]) -> None:
        student, width, _ = case
        assert student.classify(torch.randn(2, 3, 3, width)).shape == (2, 3, 3, 5)

    def test_gradients_reach_the_first_layer_from_every_output(self, case: tuple[Student, int, bool]) -> None:
        student, _, _ = case
        first = next(student.model.parameters())
        output = student(images(4))
        for part in (output.logits, output.features, output.maps):
            if part is not None:
                (gradient,) = torch.autograd.grad(part.square().sum(), first, retain_graph=True)
                assert gradient.abs().sum() > 0

    def test_no_tensors_are_kept_between_passes(self, case: tuple[Student, int, bool]) -> None:
        student, _, _ = case
        student(images(4))
        student.model(images(4))
        assert student._captured.features is None
        assert student._captured.maps is None

    def test_a_copy_captures_its_own_features(self, case: tuple[Student, int, bool]) -> None:
        student, _, _ = case
        before = student(images(4))
        for twin in (copy.deepcopy(student), pickle.loads(pickle.dumps(student))):
            with torch.no_grad():
                for parameter in twin.parameters():
                    parameter.mul_(1.5)
            after = twin(images(4))
            assert not torch.allclose(after.features, before.features)
            torch.testing.assert_close(twin.classify(after.features), after.logits)
        torch.testing.assert_close(student(images(4)).features, before.features)

    def test_it_implements_the_protocol(self, case: tuple[Student, int, bool]) -> None:
        assert isinstance(case[0], StudentLike)
        assert isinstance(case[0](images(2)), StudentOutput)


def test_dropout_before_the_last_layer_does_not_change_the_features() -> None:
    torch.manual_seed(0)
    student = Student(nets.DropoutHead(), SHAPE).train()
    passes = [student(images(16)) for _ in range(2)]
    first, second = passes
    torch.testing.assert_close(first.features, second.features)
    assert not torch.allclose(first.logits, second.logits)
    assert first.maps is not None
    torch.testing.assert_close(first.maps.mean((2, 3)), first.features)


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenet_v2", "mnasnet0_5", "googlenet"])
def test_dropout_of_torchvisions_networks_does_not_change_the_features(name: str) -> None:
    extra = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    student = Student(torchvision.models.get_model(name, num_classes=5, **extra), (3, 64, 64)).train()
    if name == "efficientnet_b0":
        for module in student.modules():
            if isinstance(module, torchvision.ops.StochasticDepth):
                module.p = 0.0
    batch = torch.randn(4, 3, 64, 64)
    torch.testing.assert_close(student(batch).features, student(batch).features)


def test_wrapping_keeps_modes_weights_and_the_global_random_state() -> None:
    model = nets.DropoutHead().train()
    model.body.eval()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    Student(model, SHAPE)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not model.body.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_the_weights_to_ship_are_those_of_the_wrapped_network() -> None:
    assert list(Student(nets.tiny(5), SHAPE).model.state_dict()) == list(nets.tiny(5).state_dict())


def test_a_network_that_returns_no_logits_is_refused() -> None:
    with pytest.raises(TypeError, match="logits"):
        Student(nets.conv_body(), SHAPE)


def test_a_map_of_one_position_is_no_map() -> None:
    assert Student(nets.FunctionalPool(), (3, 2, 2)).roles.maps is None


def test_on_the_meta_device_the_last_layer_is_found() -> None:
    with torch.device("meta"):
        student = Student(nets.DropoutHead(), SHAPE)
    assert student.roles.head == "head"
    assert student.roles.features == "drop.0"
    assert student.feature_width == 6


def test_an_exception_in_the_network_ends_the_capture() -> None:
    student = Student(nets.tiny(5), SHAPE)
    with pytest.raises(RuntimeError):
        student(torch.randn(2, 4, 16, 16))
    assert not student._captured.open


def test_the_feature_width_follows_the_network() -> None:
    widths = [Student(nets.tiny(5, width=width), SHAPE).feature_width for width in (4, 6, 9)]
    assert widths == [4, 6, 9]
    assert all(a < b for a, b in pairwise(widths))


def test_it_compiles_without_graph_breaks() -> None:
    student = randomised(Student(nets.FunctionalPool(), SHAPE))
    compiled = torch.compile(student, backend="eager", fullgraph=True)
    for one, other in zip(compiled(images(4)), student(images(4)), strict=True):
        torch.testing.assert_close(one, other)
