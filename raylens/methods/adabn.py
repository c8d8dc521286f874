"""AdaBN: the source's model with the target's batch-norm statistics, and nothing trained.

Li et al., Revisiting Batch Normalization For Practical Domain Adaptation, 2016 (arXiv 1603.04779).

The statistics are averaged over all batches of the run, of all workers, each counting alike. An encoder without batch
norm stays what it was.
"""

from __future__ import annotations

from raylens.augment import NONE
from raylens.config import section
from raylens.ema import over_workers
from raylens.methods.base import Method
from raylens.models import Model, batch_norms, forget_statistics
from raylens.records import Images, Losses
from raylens.tasks.classification import Task


class AdaBN(Method):
    """Lets batch norm see the target; no weight changes."""

    streams = ("target",)
    views = {"view": NONE}
    start = "supervised"
    suggests = {"fit.steps": 100}

    @section
    class Config:
        name: str = "adabn"
        """adabn"""

    def __init__(self, config: Config, model: Model, task: Task) -> None:
        super().__init__()
        self.config, self.model, self.task = config, model.requires_grad_(False), task
        forget_statistics(model)

    @property
    def result(self) -> Model:
        return self.model

    def train(self, mode: bool = True) -> AdaBN:
        """Batch norm gathers statistics; dropout never acts."""
        super().train(mode)
        self.model.eval()
        for layer in batch_norms(self.model):
            layer.train(mode)
        return self

    def losses(self, target: Images, progress: float) -> Losses:
        """The target's entropy, which nobody lowers: there is no gradient."""
        log_probability = self.model(target.views["view"]).log_softmax(-1)
        return Losses(terms={"entropy": -(log_probability.exp() * log_probability).sum(-1).mean()})

    def after_step(self, progress: float) -> None:
        """All workers have seen as many batches, so the mean of their averages is that of all batches."""
        for layer in batch_norms(self.model):
            if layer.running_mean is not None:
                layer.running_mean.copy_(over_workers(layer.running_mean))
                layer.running_var.copy_(over_workers(layer.running_var))
