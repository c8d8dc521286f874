"""Train one method with Ray Train, on one worker or several: `python -m raylens.train METHOD`."""

from __future__ import annotations

from collections.abc import Sequence

from raylens import cli


def train(argv: Sequence[str]) -> str | None:
    """Run the training that `argv` asks for; returns the folder of its last checkpoint."""
    run = cli.run("train", argv)
    if run is None:
        return None
    from raylens.cluster.training import training

    return training(run)


if __name__ == "__main__":
    cli.main(train)
