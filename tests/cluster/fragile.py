"""Methods that come to harm, for tests of what comes after: their process dies once, or their model is ruined."""

from __future__ import annotations

import os
from pathlib import Path

from raylens.config import section
from raylens.methods.adda import ADDA
from raylens.methods.supervised import Supervised


class Dies:
    """Kills its process after `dies_after` steps, unless the file `marker` exists."""

    def __init__(self, config, model, task) -> None:
        super().__init__(config, model, task)
        self.steps = 0

    def after_step(self, progress: float) -> None:
        self.steps += 1
        if self.steps == self.config.dies_after and not Path(self.config.marker).exists():
            Path(self.config.marker).touch()
            os._exit(1)


@section
class Death:
    dies_after: int = 0
    """Steps before the process dies; 0 lets it live."""
    marker: str = ""
    """File that stands for a death."""


class Fragile(Dies, Supervised):
    @section
    class Config(Death, Supervised.Config):
        name: str = "tests.cluster.fragile:Fragile"
        """Where this class is."""


class FragileADDA(Dies, ADDA):
    @section
    class Config(Death, ADDA.Config):
        name: str = "tests.cluster.fragile:FragileADDA"
        """Where this class is."""


class Ruined(ADDA):
    """Calls lenses non-lenses, and the other way round."""

    def __init__(self, config, model, task) -> None:
        super().__init__(config, model, task)
        model.head.weight.data.neg_()

    @section
    class Config(ADDA.Config):
        name: str = "tests.cluster.fragile:Ruined"
        """Where this class is."""
