"""Search a method's settings with ASHA on Ray, keep the best trials: `python -m raylens.tune METHOD`."""

from __future__ import annotations

from collections.abc import Sequence

from raylens import cli


def tune(argv: Sequence[str]) -> str | None:
    """Run the search that `argv` asks for; returns the folder of the best checkpoint."""
    run = cli.run("tune", argv)
    if run is None:
        return None
    from raylens.cluster.search import search

    return search(run)


if __name__ == "__main__":
    cli.main(tune)
