"""What every encoder keeps to."""

import warnings

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from raylens import find
from raylens.errors import ConfigError

OWN = [name for name in find.names("models") if name != "timm"]
NAMES = [*OWN, "test_efficientnet", "test_resnet", "vit_tiny_patch16_224"]


def make(name, channels=1, size=45, seed=0):
    torch.manual_seed(seed)
    module = find.encoder(name)
    small = {"width": 3} if hasattr(module.Config(), "width") else {}
    return module.Encoder(module.Config(name=name, **small), channels, size)


@pytest.mark.parametrize(("channels", "size"), [(1, 45), (3, 64), (1, 101), (3, 150)])
@pytest.mark.parametrize("name", NAMES)
def test_features_are_finite_and_as_long_as_said(name, channels, size):
    if name == "vit" and size == 101:
        pytest.skip("101 is prime: no patches; refused, see below")
    encoder = make(name, channels, size).eval()
    with torch.no_grad():
        features = encoder(torch.rand(2, channels, size, size))
    assert features.shape == (2, encoder.dim) == (2, 256)
    assert features.isfinite().all()
    assert not torch.equal(features[0], features[1])


@pytest.mark.parametrize("name", [*NAMES, "efficientnet_b2", "resnet34", "densenet121"])
def test_gradients_reach_exactly_the_trainable_parameters(name):
    encoder = make(name)
    encoder(torch.rand(4, 1, 45, 45)).square().sum().backward()
    for path, parameter in encoder.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, path
        assert parameter.grad is None or parameter.grad.isfinite().all(), path


@pytest.mark.parametrize("name", NAMES)
def test_the_state_is_saved_and_loaded_whole(name):
    encoder, other, pixels = make(name), make(name, seed=1), torch.rand(4, 1, 45, 45)
    encoder(pixels)  # moves running statistics
    trained = encoder.state_dict()
    assert list(trained) == list(encoder.eval().state_dict())
    other.eval().load_state_dict(trained)
    with torch.no_grad():
        assert torch.equal(encoder(pixels), other(pixels))
    held = [tensor.data_ptr() for tensor in trained.values() if tensor.numel()]
    assert len(held) == len(set(held)), "safetensors refuses tensors that share memory"


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_features(name):
    pixels = torch.rand(4, 1, 45, 45)
    one, two = (torch.manual_seed(3) and make(name)(pixels) for _ in range(2))
    assert torch.equal(one, two)


@pytest.fixture
def one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_under_the_data_parallel_wrapper_without_a_warning(name, one_process):
    encoder = make(name)
    replica = DistributedDataParallel(encoder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            replica(torch.rand(4, 1, 45, 45)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters() if parameter.requires_grad)


def test_the_length_of_the_features_is_a_setting():
    for name in [*OWN, "test_resnet"]:
        module = find.encoder(name)
        encoder = module.Encoder(module.Config(name=name, features=8), 1, 45).eval()
        assert encoder(torch.rand(1, 1, 45, 45)).shape == (1, encoder.dim) == (1, 8)


def refused(name, size=64, **settings):
    module = find.encoder(name)
    with pytest.raises(ConfigError) as refusal:
        module.Encoder(module.Config(name=name, **settings), 1, size)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_a_mistyped_name_is_refused_with_what_is_close():
    assert "resnet34" in refused("resnt34")
    assert "ecnn" in refused("ecn")


def test_an_image_too_small_is_refused_with_what_would_do():
    for name in ["inception_v3", "ecnn"]:
        assert "--size" in refused(name, size=20)


def test_weights_that_cannot_be_fetched_are_said_so(monkeypatch, tmp_path):
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    assert "encoder.pretrained" in refused("resnet10t.c3_in1k", pretrained=True)


@pytest.mark.parametrize("name", ["levit_128s", "tiny_vit_5m_224"])
def test_attention_is_of_the_weights_as_they_are_in_evaluation_mode_too(name):
    """ADDA trains its encoder in it, and averages of weights are in no other; timm keeps what it made of them."""
    encoder, pixels = make(name, size=64).eval(), torch.rand(2, 1, 64, 64)
    before = encoder(pixels)
    before.sum().backward()
    biases = [weight for path, weight in encoder.named_parameters() if path.endswith("attention_biases")]
    assert biases
    with torch.no_grad():
        for weight in biases:
            weight.normal_(std=3)
    after = encoder(pixels)
    after.sum().backward()  # not through a graph that is gone
    assert not torch.allclose(before, after)
