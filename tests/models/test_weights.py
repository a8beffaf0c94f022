"""Weights are saved and loaded; files that do not fit are refused; no code is unpickled."""

import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from tests.models import nets
from tkd_search.errors import UserError
from tkd_search.models.size import shipping_state
from tkd_search.models.torchvision_compat import torchvision
from tkd_search.models.weights import Head, fit_state, load_weights, save_weights


def stored(module: nn.Module) -> bytes:
    """Return the stored weights of a network, for comparison."""
    return save(shipping_state(module))


def differing(build: type[nn.Module] | None = None) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    first, second = (build() if build else nets.DropoutHead() for _ in range(2))
    return first, second


def older(name: str) -> str:
    """Return a tensor's name in torchvision's older files."""
    name = re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", name)
    return re.sub(r"\.mlp\.([03])\.", lambda found: f".mlp.linear_{int(found[1]) // 3 + 1}.", name)


class TestTorchvisionFiles:
    @pytest.mark.parametrize("name", ["densenet121", "vit_b_32"])
    def test_older_names_of_tensors_are_known(self, name: str) -> None:
        network = torchvision.models.get_model(name, num_classes=10)
        state = {older(key): torch.full_like(value, 2) for key, value in network.state_dict().items()}
        assert state.keys() != network.state_dict().keys()
        fit_state(network, state, where="big_model.weights", source="the file")
        assert all(bool((value == 2).all()) for value in network.state_dict().values())

    def test_auxiliary_classifiers_are_left_out(self) -> None:
        trained = torchvision.models.googlenet(num_classes=10, init_weights=False)
        network = torchvision.models.googlenet(num_classes=10, aux_logits=False, init_weights=False)
        fit_state(network, trained.state_dict(), where="big_model.weights", source="the file")
        assert torch.equal(network.fc.weight, trained.fc.weight)

    def test_a_network_whose_state_dict_has_a_version_is_loaded(self, tmp_path: Path) -> None:
        first, second = (torchvision.models.mnasnet0_5(num_classes=10) for _ in range(2))
        save_weights(first, tmp_path / "model.safetensors")
        load_weights(second, tmp_path / "model.safetensors")
        assert stored(first) == stored(second)


class TestRoundTrip:
    @pytest.mark.parametrize("build", [nets.DropoutHead, nets.Tied, nets.NoLinear])
    def test_saved_weights_are_loaded(self, build: type[nn.Module], tmp_path: Path) -> None:
        first, second = differing(build)
        assert stored(first) != stored(second)
        save_weights(first, tmp_path / "deep" / "model.safetensors")
        load_weights(second, tmp_path / "deep" / "model.safetensors")
        assert stored(first) == stored(second)

    def test_a_channels_last_model_is_saved_and_loaded(self, tmp_path: Path) -> None:
        first, second = differing()
        save_weights(first.to(memory_format=torch.channels_last), tmp_path / "model.safetensors")
        load_weights(second, tmp_path / "model.safetensors")
        assert stored(first) == stored(second)

    @pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
    @pytest.mark.parametrize("prefix", ["", "module."])
    def test_a_torch_file_of_tensors_is_loaded(
        self, tmp_path: Path, wrapper: str | None, prefix: str
    ) -> None:
        first, second = differing()
        state = {f"{prefix}{name}": tensor for name, tensor in first.state_dict().items()}
        torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "model.pth")
        load_weights(second, tmp_path / "model.pth")
        assert stored(first) == stored(second)

    @pytest.mark.parametrize("prefix", ["module._orig_mod.", "_orig_mod.module.", "model.module."])
    def test_prefixes_of_wrappers_are_removed_in_any_order(self, tmp_path: Path, prefix: str) -> None:
        first, second = differing()
        state = {f"{prefix}{name}": tensor for name, tensor in first.state_dict().items()}
        torch.save(state, tmp_path / "model.pth")
        load_weights(second, tmp_path / "model.pth")
        assert stored(first) == stored(second)

    @pytest.mark.parametrize("key", ["state_dict_ema", "model_ema"])
    def test_averaged_weights_are_preferred(self, tmp_path: Path, key: str) -> None:
        first, second = differing()
        plain = nets.DropoutHead().state_dict()
        average = {f"module.{name}": tensor for name, tensor in first.state_dict().items()}
        torch.save({"state_dict": plain, "model": plain, key: average, "epoch": 3}, tmp_path / "model.pth")
        load_weights(second, tmp_path / "model.pth")
        assert stored(first) == stored(second)

    def test_a_single_tensor_beside_the_weights_is_not_taken_for_them(self, tmp_path: Path) -> None:
        first, second = differing()
        state = first.state_dict()
        for content in (
            {"weights": state, "best": torch.tensor(91.2)},
            {"model": state, "ema": {"decay": torch.tensor(0.99)}},
            {"ema": {"decay": torch.tensor(0.99), "shadow": state}},
        ):
            torch.save(content, tmp_path / "model.pth")
            load_weights(second, tmp_path / "model.pth")
            assert stored(first) == stored(second)

    @pytest.mark.parametrize("wrap", [lambda net: net, torch.compile, nn.DataParallel])
    def test_an_averaged_model_of_torch_is_loaded(self, tmp_path: Path, wrap: object) -> None:
        first, second = differing()
        averaged = torch.optim.swa_utils.AveragedModel(wrap(first))
        assert "n_averaged" in averaged.state_dict()
        torch.save(averaged.state_dict(), tmp_path / "model.pth")
        load_weights(second, tmp_path / "model.pth")
        assert stored(first) == stored(second)

    def test_files_without_batch_counters_are_loaded(self, tmp_path: Path) -> None:
        first, second = (torchvision.models.resnet18(num_classes=5) for _ in range(2))
        state = first.state_dict()
        torch.save({n: t for n, t in state.items() if "num_batches" not in n}, tmp_path / "model.pth")
        load_weights(second, tmp_path / "model.pth")
        assert stored(first) == stored(second)

    def test_no_partial_file_is_left(self, tmp_path: Path) -> None:
        save_weights(nets.tiny(3), tmp_path / "model.safetensors")
        save_weights(nets.tiny(3), tmp_path / "model.safetensors")
        assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


class TestRefusals:
    def refusal(self, net: nn.Module, path: Path) -> UserError:
        with pytest.raises(UserError) as caught:
            load_weights(net, path, where="big_model.weights")
        assert caught.value.where == "big_model.weights"
        return caught.value

    def test_a_missing_file(self, tmp_path: Path) -> None:
        assert "not a file" in self.refusal(nets.tiny(3), tmp_path / "gone.safetensors").found

    def test_a_truncated_file(self, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        save_weights(nets.tiny(3), path)
        path.write_bytes(path.read_bytes()[:-20])
        assert str(path) in self.refusal(nets.tiny(3), path).found

    def test_a_damaged_file(self, tmp_path: Path) -> None:
        for name in ("model.safetensors", "model.pth"):
            (tmp_path / name).write_bytes(b"\x80\x04rubbish")
            self.refusal(nets.tiny(3), tmp_path / name)

    def test_another_number_of_classes_is_named(self, tmp_path: Path) -> None:
        save_weights(nets.DropoutHead(num_classes=7), tmp_path / "model.safetensors")
        error = self.refusal(nets.DropoutHead(num_classes=5), tmp_path / "model.safetensors")
        assert "7 classes" in error.found
        assert "5 classes" in error.allowed

    def test_missing_unknown_and_misshapen_tensors_are_named(self, tmp_path: Path) -> None:
        state = dict(nets.tiny(3).state_dict())
        state["surprise"] = state.pop("0.bias")
        state["0.weight"] = torch.zeros(6, 3, 5, 5)
        save_file(state, tmp_path / "model.safetensors")
        found = self.refusal(nets.tiny(3), tmp_path / "model.safetensors").found
        for part in ("lacks 1 tensor(s): 0.bias", "unknown 1 tensor(s): surprise", "0.weight [6, 3, 5, 5]"):
            assert part in found

    def test_a_refused_file_does_not_change_the_network(self, tmp_path: Path) -> None:
        net = nets.tiny(3)
        before = stored(net)
        state = {**nets.tiny(3).state_dict(), "surprise": torch.zeros(1)}
        save_file(state, tmp_path / "model.safetensors")
        self.refusal(net, tmp_path / "model.safetensors")
        assert stored(net) == before

    @pytest.mark.parametrize(
        "writer", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))]
    )
    def test_code_in_a_pickle_does_not_run(self, tmp_path: Path, writer: object) -> None:
        witness = tmp_path / "witness"
        writer({"0.weight": CreatesFile(witness)}, tmp_path / "model.pth")
        self.refusal(nets.tiny(3), tmp_path / "model.pth")
        assert not witness.exists()

    def test_a_whole_pickled_model_is_refused(self, tmp_path: Path) -> None:
        torch.save(nets.tiny(3), tmp_path / "model.pth")
        error = self.refusal(nets.tiny(3), tmp_path / "model.pth")
        code = "another object with code (torch.nn.modules.container.Sequential)"
        assert error.found == f"{tmp_path / 'model.pth'}: a pickled module or {code}, not a state dict"
        assert "save_file(model.state_dict(), path)" in error.hint

    def test_the_error_of_an_unreadable_pickle_omits_torchs_options(self, tmp_path: Path) -> None:
        (tmp_path / "model.pth").write_bytes(pickle.dumps({"0.weight": [0.5]}, protocol=4))
        found = self.refusal(nets.tiny(3), tmp_path / "model.pth").found
        assert "a pickle that is damaged or contains more than tensors" in found
        assert "weights_only" not in found


class CreatesFile:
    """Creates a file when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.witness), "w")


class TestGreyImages:
    def test_colour_kernels_are_summed_for_grey_images(self, tmp_path: Path) -> None:
        colour, grey = nets.tiny(3).eval(), nets.tiny(3, channels=1).eval()
        save_weights(colour, tmp_path / "model.safetensors")
        load_weights(grey, tmp_path / "model.safetensors")
        images = torch.randn(4, 1, 8, 8)
        torch.testing.assert_close(grey(images), colour(images.expand(-1, 3, -1, -1)))


class TestHeads:
    def fitted(self, given: nn.Module, net: nn.Module, classes: int | None) -> Head:
        return fit_state(net, given.state_dict(), where="w", source="file", new_head_for=classes)

    def test_a_head_for_other_classes_is_left_as_it_is(self) -> None:
        given, net = nets.DropoutHead(num_classes=7), nets.DropoutHead(num_classes=5)
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        head = self.fitted(given, net, 5)
        assert head.classes == 7
        for name, tensor in net.state_dict().items():
            source = before if name in head.parameters else given.state_dict()
            assert torch.equal(tensor, source[name]), name
        assert head.parameters

    def test_a_head_that_fits_is_loaded(self) -> None:
        given, net = nets.DropoutHead(num_classes=5), nets.DropoutHead(num_classes=5)
        assert self.fitted(given, net, 5) == Head()
        assert stored(given) == stored(net)

    def test_a_convolutional_head_is_a_head(self) -> None:
        given, net = (torchvision.models.squeezenet1_1(num_classes=n) for n in (7, 5))
        assert self.fitted(given, net, 5).parameters == ("classifier.1.weight", "classifier.1.bias")

    def test_another_width_is_no_head(self) -> None:
        given, net = torchvision.models.mobilenet_v2(width_mult=0.5), torchvision.models.mobilenet_v2()
        with pytest.raises(UserError, match="other shapes"):
            self.fitted(given, net, 1000)


class TestNames:
    def test_a_network_with_the_name_of_a_wrapper_is_loaded(self, tmp_path: Path) -> None:
        first, second = nn.Sequential(), nn.Sequential()
        first.add_module("model", nets.tiny(3))
        second.add_module("model", nets.tiny(3))
        save_weights(first, tmp_path / "model.safetensors")
        load_weights(second, tmp_path / "model.safetensors")
        assert stored(first) == stored(second)
        plain = nets.tiny(3)  # here the name is the prefix of a wrapper, which is removed
        load_weights(plain, tmp_path / "model.safetensors")
        assert stored(plain) == stored(first.get_submodule("model"))
