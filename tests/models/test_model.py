"""The model that joins an encoder to a head, and its batch norm."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from raylens import find
from raylens.models import Model, Turned, batch_norms, turns, without_tracking


def model(name):
    module = find.encoder(name)
    small = {"width": 3} if hasattr(module.Config(), "width") else {}
    encoder = module.Encoder(module.Config(name=name, **small), 1, 32)
    return Model(encoder, nn.Linear(encoder.dim, 2))


def test_logits_are_the_head_of_the_features():
    whole, pixels = model("small").eval(), torch.rand(2, 1, 32, 32)
    assert torch.equal(whole(pixels), whole.head(whole.features(pixels)))


def test_turns_are_the_eight_orientations_of_an_image_each_once():
    pixels = torch.rand(2, 1, 5, 5)
    seen = [*turns(pixels)]
    assert torch.equal(seen[0], pixels)
    assert len({turn.numpy().tobytes() for turn in seen}) == 8
    for turn in seen:  # the group is closed: each one's turns are the same eight
        assert {one.numpy().tobytes() for one in turns(turn)} == {one.numpy().tobytes() for one in seen}


def test_a_turned_model_says_the_mean_of_the_turns_whichever_way_an_image_lies():
    pixels = torch.rand(4, 1, 8, 8)
    whole = Model(nn.Sequential(nn.Flatten(), nn.Linear(64, 8)), nn.Linear(8, 2))
    whole.head.weight.data *= 20  # so sure that the mean of logits is another one
    turned = Turned(whole)
    seen = [
        np.rot90(side, quarters, (2, 3))
        for side in (pixels.numpy(), pixels.numpy()[..., ::-1])
        for quarters in range(4)
    ]
    seen = [torch.from_numpy(one.copy()) for one in seen]
    features, logits = turned.said(pixels)
    expected = np.mean([whole(one).softmax(1).detach().numpy() for one in seen], axis=0)
    np.testing.assert_allclose(logits.softmax(1).detach(), expected, atol=1e-6)
    assert not np.allclose(whole.head(features).softmax(1).detach(), expected, atol=1e-3)
    for one in seen:
        torch.testing.assert_close(turned(one), logits)
        torch.testing.assert_close(turned.features(one), features)
    torch.testing.assert_close(features, torch.stack([whole.features(one) for one in seen]).mean(0))


def test_a_turned_model_averages_the_numbers_of_a_regression():
    whole, pixels = model("small").eval(), torch.rand(4, 1, 32, 32)
    whole.head = nn.Linear(whole.encoder.dim, 1)
    expected = torch.stack([whole(turn) for turn in turns(pixels)]).mean(0)
    torch.testing.assert_close(Turned(whole)(pixels), expected)


@pytest.mark.parametrize("name", ["small", "ecnn", "test_resnet", "test_efficientnet"])
def test_without_tracking_the_batch_normalises_and_leaves_no_trace(name):
    whole, pixels = model(name), torch.rand(4, 1, 32, 32)
    for layer in whole.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    twin = copy.deepcopy(whole)
    before = copy.deepcopy(whole.state_dict())
    assert [*batch_norms(whole)]
    with without_tracking(whole):
        logits = whole(pixels)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, before[key]), key
    torch.testing.assert_close(logits, twin(pixels))
    assert not torch.equal(next(batch_norms(twin)).running_mean, next(batch_norms(whole)).running_mean)


def test_without_tracking_restores_each_layers_mode():
    whole = model("small")
    first = next(batch_norms(whole)).eval()
    modes = [(layer.training, layer.track_running_stats) for layer in batch_norms(whole)]
    with without_tracking(whole):
        assert first.training
    assert modes == [(layer.training, layer.track_running_stats) for layer in batch_norms(whole)]


def test_synchronised_layers_are_found_too():
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(model("small"))
    assert len([*batch_norms(synchronised)]) == len([*batch_norms(model("small"))])
