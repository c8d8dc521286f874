"""The model that joins an encoder to a head, and its batch norm."""

import copy

import pytest
import torch
from torch import nn

from raylens import find
from raylens.models import Model, batch_norms, without_tracking


def model(name):
    module = find.encoder(name)
    small = {"width": 3} if hasattr(module.Config(), "width") else {}
    encoder = module.Encoder(module.Config(name=name, **small), 1, 32)
    return Model(encoder, nn.Linear(encoder.dim, 2))


def test_logits_are_the_head_of_the_features():
    whole, pixels = model("small").eval(), torch.rand(2, 1, 32, 32)
    assert torch.equal(whole(pixels), whole.head(whole.features(pixels)))


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
