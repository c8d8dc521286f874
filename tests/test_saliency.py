"""Maps lie on what was learned, turn with the image where the network does, and tell nothing of shuffled weights."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raylens import find, saliency
from raylens.errors import ConfigError
from raylens.models import Model, Turned

SIZE = 48
SMALL = {
    "small": {"width": 4},
    "ecnn": {"width": 3},
    "vit": {"features": 32, "depth": 2, "patch": 6},
    "test_resnet": {"dropout": 0.0},
}
MORE = ["test_efficientnet", "convnext_atto", "test_vit", "deit_tiny_distilled_patch16_224"]


def model(name: str, size: int = SIZE, seed: int = 0, classes: int = 2) -> Model:
    torch.manual_seed(seed)
    module = find.encoder(name)
    encoder = module.Encoder(module.Config(name=name, **SMALL.get(name, {})), 1, size)
    return Model(encoder, nn.Linear(encoder.dim, classes)).eval()


def spots(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise (N, 1, 48, 48), in every other image (label 1) with a blob near one of four corners (N, 2), of -1 and 1."""
    rng = np.random.default_rng(seed)
    labels, corners = np.arange(rows) % 2, rng.choice([-1, 1], (rows, 2))
    place = (SIZE - 1) / 2 + 13 * corners + rng.uniform(-2, 2, (rows, 2))
    y, x = np.mgrid[:SIZE, :SIZE]
    distance = np.hypot(x - place[:, :1, None], y - place[:, 1:, None])
    images = labels[:, None, None] * np.exp(-((distance / 5) ** 2)) + rng.normal(0, 0.1, distance.shape)
    return images[:, None].astype(np.float32), labels, corners


@pytest.fixture(scope="module")
def trained():
    """Models that tell whether there is a blob, by encoder; trained when they are first asked for."""
    held: dict[str, Model] = {}

    def get(name: str) -> Model:
        if name not in held:
            made = model(name).train()
            optimizer = torch.optim.AdamW(made.parameters(), 3e-3)
            for step in range(30 if name == "ecnn" else 80):
                pixels, labels, _ = spots(16, step)
                optimizer.zero_grad()
                F.cross_entropy(made(torch.from_numpy(pixels)), torch.from_numpy(labels)).backward()
                optimizer.step()
            held[name] = made.eval()
        return held[name]

    return get


@pytest.mark.parametrize("name", SMALL)
def test_a_map_lies_on_what_the_model_has_learned_to_see(name, trained):
    pixels, labels, corners = spots(80, 1000)
    made = trained(name)
    with torch.no_grad():
        assert (made(torch.from_numpy(pixels)).argmax(1).numpy() == labels).mean() > 0.9
    seen = saliency.maps(made, pixels[labels == 1], 1)
    along = np.arange(SIZE) - (SIZE - 1) / 2
    total = seen.sum((1, 2))
    middle = np.stack([seen.sum(1) @ along, seen.sum(2) @ along], 1) / total[:, None]
    assert (np.sign(middle) == corners[labels == 1]).mean() > 0.9


@pytest.mark.parametrize("name", SMALL)
def test_maps_of_shuffled_weights_are_others(name, trained):
    pixels, labels, _ = spots(16, 1000)
    made, shown = trained(name), pixels[labels == 1]
    assert saliency.likeness_to_random(made, shown, 1, draws=8) < 0.6
    same = saliency.maps(copy.deepcopy(made), shown, 1)
    np.testing.assert_allclose(same, saliency.maps(made, shown, 1), atol=1e-6)


@pytest.mark.parametrize("name", [*SMALL, *MORE])
def test_maps_are_as_large_as_images_within_0_and_1_whatever_the_batch(name):
    made, pixels = model(name), spots(5, 0)[0]
    seen = saliency.maps(made, pixels)
    assert (seen.shape, seen.dtype) == ((5, SIZE, SIZE), np.float32)
    assert seen.min() >= 0
    assert seen.max() == pytest.approx(1)
    np.testing.assert_allclose(saliency.maps(made, pixels, batch=2), seen, atol=0.02)
    assert saliency.maps(made, pixels[:0]).shape == (0, SIZE, SIZE)


@pytest.mark.parametrize("name", [*SMALL, *MORE])
def test_the_model_is_left_as_it_was(name):
    made, pixels = model(name).train(), spots(3, 0)[0]
    made.head.eval()
    for weight in made.encoder.parameters():
        weight.requires_grad_(False)
    before, modes = copy.deepcopy(made.state_dict()), [module.training for module in made.modules()]
    with torch.inference_mode():
        saliency.maps(made, pixels)
    assert modes == [module.training for module in made.modules()]
    assert all(torch.equal(value, before[key]) for key, value in made.state_dict().items())
    assert all(weight.grad is None for weight in made.parameters())
    assert all(layer.fused_attn for layer in saliency.attentions(made))
    assert not any(module._forward_hooks for module in made.modules())


@pytest.mark.parametrize(
    "element", [lambda x: x[..., ::-1], lambda x: x[..., ::-1, ::-1]], ids=["mirror", "turn"]
)
@pytest.mark.parametrize("size", [45, 48])
def test_the_map_of_the_equivariant_encoder_turns_with_the_image(size, element):
    made = model("ecnn", size)
    made.train()(torch.rand(4, 1, size, size))
    pixels = np.random.default_rng(0).random((3, 1, size, size), np.float32)
    made.eval()
    there = np.concatenate([saliency.maps(made, pixels, target) for target in (0, 1)])
    turned = np.concatenate([saliency.maps(made, element(pixels), target) for target in (0, 1)])
    np.testing.assert_allclose(turned, element(there), atol=1e-3)
    assert np.abs(element(there) - there).max() > 0.05


@pytest.mark.parametrize("name", ["small", "vit"])
def test_the_map_of_a_model_that_averages_turns_turns_with_the_image(name):
    made, pixels = Turned(model(name)), np.random.default_rng(0).random((3, 1, SIZE, SIZE), np.float32)
    there = saliency.maps(made, pixels, batch=2)
    for element in (lambda x: np.rot90(x, axes=(-2, -1)), lambda x: x[..., ::-1]):
        np.testing.assert_allclose(saliency.maps(made, element(pixels)), element(there), atol=1e-4)
        assert np.abs(element(there) - there).max() > 0.05
    likeliest = made(torch.from_numpy(pixels)).argmax(1).numpy()
    np.testing.assert_allclose(saliency.maps(made, pixels, likeliest), there, atol=1e-6)


def test_grad_cam_is_the_formula_of_the_paper():
    """Selvaraju et al. 2017, eqs. 1 and 2, the slope by finite differences."""
    made, pixels = model("small").double(), torch.rand(1, 1, SIZE, SIZE, dtype=torch.float64)
    with torch.no_grad():
        activations = made.encoder.maps(pixels)
        slopes = torch.zeros_like(activations)
        for place in np.ndindex(*activations.shape):
            ends = []
            for step in (1e-6, -1e-6):
                moved = activations.clone()
                moved[place] += step
                logits = made.head(made.encoder.pooled(moved))[0]
                ends.append((logits[1] - logits[0]).item())
            slopes[place] = (ends[0] - ends[1]) / 2e-6
    evidence = (slopes.mean((2, 3), keepdim=True) * activations).sum(1)
    for target, sign in ((0, -1), (1, 1)):
        expected = (sign * evidence).clamp_min(0)
        found = saliency.grad_cam(made, pixels, torch.tensor([target]))
        torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "tokens"), [("test_vit", 1), ("deit_tiny_distilled_patch16_224", 2)], ids=["vit", "distilled"]
)
def test_rollout_is_the_formula_of_the_paper(name, tokens):
    """Abnar and Zuidema 2020, section 3, over the rows of the tokens whose mean the features are."""
    made, pixels = model(name), torch.rand(2, 1, SIZE, SIZE)
    with torch.no_grad():
        matrices = [matrix.numpy() for matrix in saliency.attention(made, pixels)]
    assert all(np.allclose(matrix.sum(-1), 1, atol=1e-5) for matrix in matrices)
    product = np.eye(matrices[0].shape[-1])
    for matrix in matrices:
        product = (0.5 * matrix + 0.5 * np.eye(len(product[-1]))) @ product
    expected = product[:, :tokens, tokens:].mean(1).reshape(2, 3, 3)
    expected -= expected.min((1, 2), keepdims=True)
    np.testing.assert_allclose(saliency.rollout(made, pixels, torch.tensor([-1, -1])), expected, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["small", "ecnn", "test_resnet", "convnext_atto", "swin_tiny_patch4_window7_224"]
)
def test_features_are_pooled_of_maps(name):
    encoder, pixels = model(name, 64).encoder, torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(encoder.pooled(encoder.maps(pixels)), encoder(pixels))


@pytest.mark.parametrize("name", ["small", "ecnn", "vit"])
def test_a_cell_of_the_map_is_where_it_looks(name):
    """The pixels that change a cell lie around its own."""
    encoder = model(name, 96).encoder
    pixels = torch.rand(1, 1, 96, 96, requires_grad=True)
    maps = encoder.maps(pixels)
    first, step = encoder.cells(maps.shape[-1])
    row, column = maps.shape[2] // 2, maps.shape[3] // 2
    (slopes,) = torch.autograd.grad(maps[:, :, row, column].square().sum(), pixels)
    weight = slopes[0, 0].square()
    along = torch.arange(96.0)
    centre = (weight.sum(1) @ along / weight.sum()).item(), (weight.sum(0) @ along / weight.sum()).item()
    assert centre == pytest.approx((first + step * row, first + step * column), abs=max(step / 2, 3))


def test_maps_are_linear_between_cells_and_constant_beyond():
    seen = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    line = saliency.enlarged(seen, (2.0, 4.0), 9)[0, 4]
    torch.testing.assert_close(line, torch.tensor([0.0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1]))


def test_a_class_is_asked_for_by_its_number_for_all_or_each():
    made, pixels = model("small", classes=3), spots(4, 0)[0]
    each = np.array([0, 1, 2, 0])
    seen = saliency.maps(made, pixels, each)
    for row, target in enumerate(each):
        np.testing.assert_allclose(seen[row], saliency.maps(made, pixels, int(target))[row], atol=1e-5)
    assert np.abs(saliency.maps(made, pixels, 1) - saliency.maps(made, pixels, 2)).max() > 0.1
    number = model("small", classes=1)
    assert saliency.maps(number, pixels).shape == (4, SIZE, SIZE)


def test_a_network_that_is_part_transformer_is_told_by_its_maps():
    made = model("mobilevit_xxs", 64)
    assert saliency.attentions(made) == []
    assert saliency.maps(made, np.zeros((1, 1, 64, 64), np.float32)).shape == (1, 64, 64)


def test_what_says_nothing_of_an_image_is_refused():
    made, pixels = model("small"), spots(2, 0)[0]
    for wrong in (2, -1, np.array([0, 5])):
        with pytest.raises(ConfigError, match=r"no class .* to explain; give one of 0 to 1"):
            saliency.maps(made, pixels, wrong)
    with pytest.raises(ConfigError, match="finetune it first"):
        saliency.maps(Model(made.encoder, nn.Identity()), pixels)
    task = find.task("super_resolution")((), factor=2, width=8, blocks=1)
    with pytest.raises(ConfigError, match="paints images"):
        saliency.maps(task.model(made.encoder, 1, SIZE), pixels)
    with pytest.raises(ConfigError, match="pools tokens"):
        saliency.maps(model("xcit_nano_12_p16_224", 64), np.zeros((1, 1, 64, 64), np.float32))
