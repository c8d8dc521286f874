"""The equivariant encoder: what its group does to an image leaves the features as they are."""

import copy
import sys

import pytest
import torch

from raylens.errors import ConfigError
from raylens.models.ecnn import Config, Encoder

HALF = [lambda x: x.rot90(2, (2, 3))]
QUARTERS = [lambda x, k=k: x.rot90(k, (2, 3)) for k in (1, 2, 3)]
MIRRORS = [lambda x: x.flip(2), lambda x: x.flip(3)]
ELEMENTS = {
    "C4": QUARTERS,
    "D2": HALF + MIRRORS,
    "D4": QUARTERS + MIRRORS,
    "C8": QUARTERS,
    "D8": QUARTERS + MIRRORS,
}


def encoder(size=45, seed=0, **settings):
    """One that has seen some images, in evaluation mode."""
    torch.manual_seed(seed)
    made = Encoder(Config(width=3, **settings), 1, size)
    made(torch.rand(4, 1, size, size))
    return made.eval()


def change(made, pixels, element):
    """How much `element` changes the features, as a share of how much they vary."""
    with torch.no_grad():
        return ((made(element(pixels)) - made(pixels)).abs().max() / made(pixels).std()).item()


@pytest.mark.parametrize("size", [33, 46, 48])  # odd, and even at one pool or both
@pytest.mark.parametrize("group", ELEMENTS)
def test_features_are_invariant_under_the_group(group, size):
    made, pixels = encoder(size, group=group), torch.rand(4, 1, size, size)
    for element in ELEMENTS[group]:
        assert change(made, pixels, element) < 1e-4


@pytest.mark.parametrize(("group", "element"), [("D2", QUARTERS[0]), ("C4", MIRRORS[0]), ("C8", MIRRORS[0])])
def test_features_see_what_is_not_in_the_group(group, element):
    assert change(encoder(group=group), torch.rand(4, 1, 45, 45), element) > 1e-2


def test_flattened_features_are_not_invariant():
    assert change(encoder(pool="flatten"), torch.rand(4, 1, 45, 45), MIRRORS[0]) > 1e-2


def test_the_structure_is_the_published_one():
    published = Encoder(Config(pool="flatten"), 1, 64)
    convolutions = [layer for layer in published.trunk if hasattr(layer, "kernel_size")]
    assert [len(layer.out_type) for layer in convolutions] == [24, 48, 48, 96, 96, 64]
    assert [layer.kernel_size for layer in convolutions] == [7, 5, 5, 5, 5, 5]
    assert sum(parameter.numel() for parameter in published.head.parameters()) == 1_393_664


def test_weights_changed_in_evaluation_mode_act():
    made, pixels = encoder(), torch.rand(2, 1, 45, 45)
    with torch.no_grad():
        before = made(pixels)
        made.trunk[1].weights.mul_(2)
        made.trunk[4].weights.add_(0.1)
        assert not torch.allclose(made(pixels), before)


def test_a_copy_stands_alone():
    made, pixels = encoder(), torch.rand(2, 1, 45, 45)
    twin = copy.deepcopy(made)
    with torch.no_grad():
        features = made(pixels)
        for parameter in made.parameters():
            parameter.zero_()
        assert torch.equal(twin(pixels), features)


def test_models_share_no_tensors():
    """escnn keeps its bases in a cache, so that moving one model to a GPU would have moved all."""
    one, two = encoder(), encoder()
    held = {tensor.data_ptr() for tensor in one.state_dict().values() if tensor.numel()}
    assert not held & {tensor.data_ptr() for tensor in two.state_dict().values() if tensor.numel()}


def test_without_escnn_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "escnn", None)
    monkeypatch.delitem(sys.modules, "raylens.models.escnn_compat")
    with pytest.raises(ConfigError, match="pip install"):
        import raylens.models.escnn_compat  # noqa: F401


def test_the_smallest_image_is_one_that_it_can_run_on():
    found = Encoder(Config(width=3, features=8), 1, 29).eval()
    assert found(torch.rand(2, 1, 29, 29)).shape == (2, 8)
    with pytest.raises(ConfigError, match=r"cannot take images of 28 pixels.*--size 29 or more"):
        Encoder(Config(width=3, features=8), 1, 28)
