"""Twin networks: a Siamese pair that shares one encoder, drawn together without negatives.

By default Barlow Twins: the two views' projections are to be alike in each dimension, and no two dimensions alike.
Zbontar et al., Barlow Twins: Self-Supervised Learning via Redundancy Reduction, ICML 2021 (arXiv 2103.03230). With
`kind: simsiam`, each view predicts the other, whose gradient is stopped: Chen & He, Exploring Simple Siamese
Representation Learning, CVPR 2021 (arXiv 2011.10566). DeepLense planned a "TwinNetwork" and left it undefined: this
is raylens' definition.

Differs from the papers: views as in `contrastive`, smaller heads, AdamW in place of LARS and SGD; Barlow Twins' loss
is divided by the number of dimensions.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from raylens.config import section
from raylens.losses import cosine_distance, redundancy
from raylens.methods.base import Pretraining, group, mlp, spreading
from raylens.models import Model
from raylens.records import Images, Losses
from raylens.space import LogUniform
from raylens.tasks.pretraining import Task


class Twin(Pretraining):
    """Makes the two views' features alike and keeps them from saying nothing."""

    @section
    class Config:
        name: str = "twin"
        """twin"""
        kind: Literal["barlow", "simsiam"] = "barlow"
        """What keeps features from collapsing: uncorrelated dimensions, or a predictor and a stopped gradient."""
        redundancy: Annotated[float, Field(ge=0), LogUniform(1e-3, 0.05)] = 5e-3
        """Weight of the correlation of different dimensions; for barlow."""
        hidden: Annotated[int, Field(ge=1)] = 512
        """Width of the projection head."""
        projection: Annotated[int, Field(ge=4)] = 512
        """Length of what is compared."""

    def __init__(self, config: Config, model: Model, task: Task) -> None:
        super().__init__(config, model, task)
        self.projector = mlp(model.encoder.dim, config.hidden, config.hidden, config.projection)
        self.predictor = nn.Identity()
        if config.kind == "simsiam":
            self.projector.append(nn.BatchNorm1d(config.projection, affine=False))
            self.predictor = mlp(config.projection, config.projection // 4, config.projection)

    def groups(self) -> list[dict]:
        heads = nn.ModuleList([self.projector, self.predictor])
        return [group("model", self.model), group("heads", heads)]

    def losses(self, source: Images, progress: float) -> Losses:
        features = self.two_views(source)
        one, two = (self.projector(view) for view in features)
        if self.config.kind == "barlow":
            terms = {"redundancy": redundancy(one, two, self.config.redundancy)}
        else:  # algorithm 1, with 2 - 2 cos for -cos
            distance = cosine_distance(self.predictor(one), two) + cosine_distance(self.predictor(two), one)
            terms = {"prediction": distance / 2}
        return Losses(terms=terms, monitors=spreading(*features))
