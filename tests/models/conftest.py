"""Shared by the tests of the encoders."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny batches are faster without a second thread to wait for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
