"""The feature reward at every stage: pairs of stages and taps, values and gradients."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.distill.nets import TinyStudent, digit_views, distiller, trained_big_model
from tkd_search.distill.features.bank_builder import compute_bank
from tkd_search.distill.features.taps import Tap, taps_with_cells
from tkd_search.distill.losses.stage_reward import StageReader, StageReward, stage_teachers
from tkd_search.distill.method_settings import BankSettings, MethodSettings, TrainSettings
from tkd_search.distill.teachers.generators import Generators
from tkd_search.distill.training.distiller import Distiller
from tkd_search.models.architectures.families import ModelSpec
from tkd_search.models.build import build_network
from tkd_search.models.student import Student

STAGES = (Tap("a", 4, 64), Tap("b", 6, 16))
TAPS = (Tap("one", 5, 64), Tap("two", 8, 16), Tap("three", 8, 16), Tap("mean", 7), Tap("logits", 3))
SPATIAL = (0, 1, 2)
GRID = 4


def made(seed=0, batch=5, width=8):
    rng = torch.Generator().manual_seed(seed)
    generators = Generators(
        [5, 8, 8, 7, 3],
        3,
        width=width,
        masks=2,
        activation="swish",
        theta0=1.0,
        theta_frozen=False,
        generator=rng,
    )
    reward = StageReward(STAGES, TAPS, SPATIAL, width=width, grid=GRID, generator=rng)
    maps = [torch.randn(batch, 4, 8, 8, generator=rng), torch.randn(batch, 6, 4, 4, generator=rng)]
    cells = torch.randn(batch, 3, GRID * GRID, width, generator=rng)
    return reward, maps, cells, generators


class TestPairs:
    def test_a_stage_gets_the_deepest_tap_with_as_many_positions(self):
        assert stage_teachers(STAGES, TAPS) == ((0, 0), (1, 2))

    def test_every_big_model_teaches_every_stage(self):
        second = [Tap(tap.name, tap.channels, tap.positions, 1) for tap in TAPS]
        assert stage_teachers(STAGES, [*TAPS, *second]) == ((0, 0), (0, 5), (1, 2), (1, 7))

    def test_a_stage_larger_than_all_maps_gets_the_largest(self):
        assert stage_teachers([Tap("a", 4, 1024)], TAPS) == ((0, 0),)

    def test_a_big_model_without_maps_teaches_no_stage(self):
        assert stage_teachers(STAGES, [Tap("tokens", 8), Tap("logits", 3)]) == ()

    @given(st.lists(st.integers(0, 1024), min_size=1, max_size=6), st.lists(st.integers(2, 1024), max_size=5))
    def test_smaller_stages_never_have_larger_teachers(self, of_taps, of_stages):
        taps = [Tap(str(i), 1, size) for i, size in enumerate(of_taps)]
        stages = [Tap(str(i), 1, size) for i, size in enumerate(sorted(of_stages, reverse=True))]
        positions = [taps[i].positions for _, i in stage_teachers(stages, taps)]
        assert positions == sorted(positions, reverse=True)
        assert len(positions) == (len(stages) if any(tap.spatial for tap in taps) else 0)


class TestReward:
    def test_cells_of_the_deepest_tap_of_every_size_suffice(self):
        reward, maps, cells, generators = made()
        kept = taps_with_cells(TAPS, "stages")
        assert kept == (0, 2)
        start = torch.Generator().manual_seed(0)
        of_stages = StageReward(STAGES, TAPS, kept, width=8, grid=GRID, generator=start)
        of_stages.load_state_dict(reward.state_dict())
        assert torch.equal(of_stages(maps, cells[:, kept], generators), reward(maps, cells, generators))

    def test_features_that_an_adapter_reproduces_have_loss_zero(self):
        _, _, cells, generators = made()
        start = torch.Generator().manual_seed(0)
        reward = StageReward(STAGES[1:], TAPS, SPATIAL, width=8, grid=GRID, generator=start)
        # The teacher of the stage is the tap 'three'; the student has six of its eight channels.
        target = generators.activated(cells[None, :, 2], torch.tensor([2]))[0].detach()
        cells[..., 6:] = 0
        with torch.no_grad():
            reward.adapters[0].copy_(torch.eye(8)[:, :6])
        maps = [target[..., :6].transpose(1, 2).reshape(5, 6, 4, 4)]
        assert reward(maps, cells, generators).item() == pytest.approx(0, abs=1e-5)
        assert reward([-maps[0]], cells, generators).item() == pytest.approx(2, abs=1e-5)

    def test_the_order_of_rows_does_not_matter(self):
        reward, maps, cells, generators = made()
        order = torch.tensor([3, 1, 4, 0, 2])
        moved = reward([m[order] for m in maps], cells[order], generators)
        torch.testing.assert_close(moved, reward(maps, cells, generators))

    def test_gradients_reach_every_stage_but_no_generator(self):
        reward, maps, cells, generators = made()
        maps = [m.requires_grad_() for m in maps]
        reward(maps, cells, generators).backward()
        assert all(m.grad.abs().sum() > 0 for m in maps)
        assert all(p.grad is None for p in generators.parameters())

    def test_the_scale_of_the_student_does_not_matter(self):
        reward, maps, cells, generators = made()
        scaled = reward([3 * m for m in maps], cells, generators)
        torch.testing.assert_close(scaled, reward(maps, cells, generators), rtol=1e-4, atol=1e-5)


class TestReader:
    def test_stages_are_the_last_maps_of_every_size(self):
        student = TinyStudent()
        student.body.append(nn.Conv2d(16, 12, 1))
        student.head, student.feature_width = nn.Linear(12, 10), 12
        reader = StageReader(student, torch.zeros(1, 1, 8, 8))
        assert [(s.channels, s.positions) for s in reader.stages] == [(8, 64), (12, 16)]

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("resnet18", [(64, 1024), (128, 256), (256, 64), (512, 16)]),
            ("mobilenet_v2", [(16, 256), (24, 64), (1280, 16)]),
            ("swin_t", [(96, 64), (192, 16), (384, 4)]),
        ],
    )
    def test_stages_of_real_networks(self, name, expected):
        network = build_network(
            ModelSpec(name=name, classes=10, channels=3, size=32, small=name != "swin_t"), "student"
        )
        student = Student(network, (3, 32, 32))
        reader = StageReader(student, torch.zeros(1, 3, 32, 32))
        found = reader(lambda: student(torch.zeros(2, 3, 32, 32)))
        assert [(m.shape[1], m.shape[2] * m.shape[3]) for m in found.stages] == expected

    def test_each_pass_returns_its_own_maps(self):
        student = TinyStudent()
        reader = StageReader(student, torch.zeros(1, 1, 8, 8))
        read = reader(lambda: student(torch.zeros(3, 1, 8, 8)))
        assert [tuple(m.shape) for m in read.stages] == [(3, 8, 8, 8), (3, 16, 4, 4)]
        with pytest.raises(KeyError):
            reader(lambda: copy.deepcopy(student)(torch.zeros(3, 1, 8, 8)))

    def test_no_maps_are_captured_outside_the_reader(self):
        student = TinyStudent()
        reader = StageReader(student, torch.zeros(1, 1, 8, 8))
        kept = student(torch.zeros(3, 1, 8, 8))
        copy.deepcopy(student)  # a captured map with a gradient cannot be copied
        with pytest.raises(KeyError):
            reader(lambda: kept)


def test_spatial_terms_are_absent_for_a_big_model_without_maps():
    """A bank of classifier taps alone has no cells, for any grid."""
    bank = compute_bank(
        [trained_big_model()], digit_views(300), BankSettings(taps=("classifier.2",), width=32, grid=4)
    )
    trainer = Distiller(
        TinyStudent(),
        digit_views(300),
        MethodSettings(stage_feature=1.0, local=1.0, local_feature=1.0),
        TrainSettings(epochs=2, batch_size=64),
        seed=0,
        bank=bank,
        class_count=10,
    )
    assert not {"stage_feature", "local", "local_feature"} & set(trainer.run_epoch().losses)


def test_the_stage_term_is_reported_and_falls():
    trainer = distiller(MethodSettings(stage_feature=3.0, beta=0.0), grid=4)
    first, _, last = (trainer.run_epoch() for _ in range(3))
    assert last.losses["stage_feature"] < 0.8 * first.losses["stage_feature"]


def test_a_bank_without_cells_is_refused():
    with pytest.raises(ValueError, match=r"method.stage_feature > 0 needs cells of spatial taps"):
        distiller(MethodSettings(stage_feature=1.0))
