"""Compare methods, encoders and seeds as one search on Ray, and write the table: `python -m raylens.benchmark`."""

from __future__ import annotations

from collections.abc import Sequence

from raylens import cli


def benchmark(argv: Sequence[str]) -> str | None:
    """Run the benchmark that `argv` asks for; returns the folder of its tables."""
    grid = cli.grid(argv)
    if grid is None:
        return None
    from raylens.cluster.compare import compare

    return compare(grid)


if __name__ == "__main__":
    cli.main(benchmark)
