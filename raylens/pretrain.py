"""Pretrain an encoder on images without labels, on one worker or several: `python -m raylens.pretrain METHOD`."""

from __future__ import annotations

from collections.abc import Sequence

from raylens import cli, find
from raylens.errors import ConfigError


def pretrain(argv: Sequence[str]) -> str | None:
    """Run the pretraining that `argv` asks for; returns the folder of its last checkpoint."""
    run = cli.run("pretrain", argv)
    if run is None:
        return None
    if run.task.name != "pretraining":
        known = [name for name in find.names("methods") if "pretraining" in find.method(name).tasks]
        raise ConfigError(
            f"{run.method.name} needs labels: use raylens.train; without labels: {', '.join(known)}"
        )
    from raylens.cluster.training import training

    return training(run)


if __name__ == "__main__":
    cli.main(pretrain)
