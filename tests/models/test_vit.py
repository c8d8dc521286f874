"""What is the vision transformer's own."""

import pytest
import torch

from raylens.errors import ConfigError
from raylens.models.vit import Config, Encoder


def made(size=64, **settings):
    torch.manual_seed(0)
    return Encoder(Config(**settings), 1, size).eval()


@pytest.mark.parametrize(("size", "patch"), [(64, 8), (150, 10), (75, 5), (45, 9), (128, 8), (49, 7)])
def test_patches_divide_the_image(size, patch):
    encoder = made(size, depth=1)
    assert encoder.patch == patch
    assert encoder.tokens(torch.rand(2, 1, size, size)).shape == (2, 1 + (size // patch) ** 2, 256)


@pytest.mark.parametrize(("size", "given"), [(101, {}), (64, {"patch": 7}), (64, {"patch": 64}), (8, {})])
def test_what_cannot_be_cut_is_refused(size, given):
    with pytest.raises(ConfigError, match="cannot cut"):
        made(size, **given)


def test_heads_share_the_token_out():
    with pytest.raises(ConfigError, match="set a divisor"):
        made(features=10, heads=4)


def test_tokens_of_all_patches_are_those_of_timm():
    encoder, pixels = made(depth=2), torch.rand(2, 1, 64, 64)
    torch.testing.assert_close(encoder.tokens(pixels), encoder.network.forward_features(pixels))


def test_what_is_left_out_is_not_seen():
    encoder, pixels = made(depth=2), torch.rand(2, 1, 64, 64)
    kept = torch.tensor([[0, 5, 9], [1, 2, 63]])
    changed = pixels.clone()
    changed[0, :, 8:16, 8:16] = 7  # patch 9 of the first image, which is seen
    changed[1, :, 8:16, 8:16] = 7  # and of the second, which is not
    before, after = encoder.tokens(pixels, kept), encoder.tokens(changed, kept)
    assert before.shape == (2, 4, 256)
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


def test_pools():
    pixels = torch.rand(2, 1, 64, 64)
    average, cls = made(depth=1), made(depth=1, pool="cls")
    torch.testing.assert_close(average(pixels), average.tokens(pixels)[:, 1:].mean(1))
    torch.testing.assert_close(cls(pixels), cls.tokens(pixels)[:, 0])
