"""Contrastive pretraining: an image's two views are to be found among those of all other images.

Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020 (arXiv 2002.05709):
SimCLR.

Differs from the paper: views are symmetries, small shifts and noise, since crops cut the ring and colours are the
signal; AdamW in place of LARS. `--data.views rotation` and `noise` are the pretexts of DeepLense's contrastive
learning, and `all` is both with small shifts. Its negatives were across the views alone; here they are all 2B - 2
others, of all workers. Its turns came without mirror images. Its noise had a deviation of 0.1, of single channels of
Models III and IV 0.01, and was cut off at 0 and 1; here it has up to 0.06, another for each view, since more would hide
what substructure does, and is not cut off, since preprocessed pixels may lie beyond.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raylens.config import section
from raylens.losses import nt_xent
from raylens.methods.base import Pretraining, group, mlp, spreading
from raylens.models import Model
from raylens.records import Images, Losses
from raylens.space import LogUniform
from raylens.tasks.pretraining import Task


class Contrastive(Pretraining):
    """Draws views of one image together and all others apart."""

    @section
    class Config:
        name: str = "contrastive"
        """contrastive"""
        temperature: Annotated[float, Field(gt=0), LogUniform(0.05, 1.0)] = 0.2
        """Divides similarities; the lower, the more the nearest negatives count."""
        hidden: Annotated[int, Field(ge=1)] = 512
        """Width of the projection head, which is thrown away."""
        projection: Annotated[int, Field(ge=1)] = 128
        """Length of what is compared."""

    def __init__(self, config: Config, model: Model, task: Task) -> None:
        super().__init__(config, model, task)
        self.projector = mlp(model.encoder.dim, config.hidden, config.projection)

    def groups(self) -> list[dict]:
        return [group("model", self.model), group("projector", self.projector)]

    def losses(self, source: Images, progress: float) -> Losses:
        one, two = self.two_views(source)
        loss = nt_xent(self.projector(one), self.projector(two), self.config.temperature)
        return Losses(terms={"contrast": loss}, monitors=spreading(one, two))
