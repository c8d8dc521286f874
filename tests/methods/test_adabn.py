"""AdaBN against the plain formula of its paper."""

import numpy as np
import torch

from raylens.models import batch_norms


def test_statistics_are_the_means_over_the_target_s_batches(tiny):
    """Li et al. 2016 (arXiv 1603.04779), algorithm 1: mean and variance of each unit over the target, nothing else.

    Of the first layer, whose inputs do not depend on any statistics; each batch counts alike.
    """
    method = tiny.method("adabn").train()
    layer = next(batch_norms(method.model))
    before = {key: value.clone() for key, value in method.model.state_dict().items() if "running" not in key}
    given, layer_inputs = [tiny.batch(method, seed=seed) for seed in range(3)], []
    layer.register_forward_pre_hook(lambda layer, inputs: layer_inputs.append(inputs[0].double().numpy()))
    for batch in given:
        method(batch, 0.0)
    means = [one.mean((0, 2, 3)) for one in layer_inputs]
    variances = [one.var((0, 2, 3), ddof=1) for one in layer_inputs]
    np.testing.assert_allclose(layer.running_mean.numpy(), np.mean(means, 0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(layer.running_var.numpy(), np.mean(variances, 0), rtol=1e-4)
    assert set(given[0]) == {"target"}
    after = method.model.state_dict()
    for key, value in before.items():
        if "num_batches" not in key:
            assert torch.equal(after[key], value), key
