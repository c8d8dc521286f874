"""The encoders: `python -m raylens.models`, with parameters and the speed of each on this machine."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import timm
import torch
from torch import nn

from raylens import find
from raylens.cli import Parser, guarded
from raylens.errors import ConfigError
from raylens.progress import bar

TIMM = ("efficientnet_b2", "resnet34", "densenet121")


def models(names: list[str], channels: int, size: int, batch: int) -> None:
    """Print a line for each encoder: parameters, images/s forward and with gradients, in training mode."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = f"{torch.get_num_threads()} threads" if device == "cpu" else torch.cuda.get_device_name()
    print(f"images/s for {batch} images of {channels} x {size} x {size} on {where}\n")
    print(f"{'encoder':<20}{'parameters':>12}{'forward':>12}{'and backward':>15}")
    pixels = torch.rand(batch, channels, size, size, device=device)
    with bar() as shown:
        task = shown.add_task("", total=len(names))
        for name in names:
            shown.update(task, description=f"measuring {name}")
            print(
                f"{name:<20}", end="", flush=shown.disable
            )  # a bar tells the name itself, and wants whole lines
            try:
                module = find.encoder(name)
                encoder = module.Encoder(module.Config(name=name), channels, size).to(device)
            except ConfigError as error:
                print(error)
            else:
                parameters = sum(parameter.numel() for parameter in encoder.parameters())
                forward, backward = speeds(encoder, pixels)
                print(f"{parameters:>12,}{forward:>12,.0f}{backward:>15,.0f}", flush=True)
            shown.advance(task)


def speeds(encoder: nn.Module, pixels: torch.Tensor) -> tuple[float, float]:
    def forward() -> None:
        with torch.no_grad():
            encoder(pixels)

    def backward() -> None:
        encoder.zero_grad(set_to_none=True)
        encoder(pixels).square().mean().backward()

    return len(pixels) / seconds(forward), len(pixels) / seconds(backward)


def seconds(work: Callable[[], None], budget: float = 1.0) -> float:
    """The median time of a call, after one to warm up."""
    work()
    times: list[float] = []
    while not times or (len(times) < 20 and sum(times) < budget):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m raylens.models",
        usage="python -m raylens.models [--FLAG VALUE ...]",
        description="List the encoders, with the parameters and the speed of each on this machine.",
        example="python -m raylens.models --channels 3 --size 64",
    )
    images = parser.add_argument_group("images to measure with")
    images.add_argument("--channels", type=int, default=1, help="bands of an image [1]")
    images.add_argument("--size", type=int, default=64, help="pixels along its side [64]")
    images.add_argument("--batch", type=int, default=64, help="images at a time [64]")
    names = parser.add_argument_group("names")
    names.add_argument("--match", metavar="PATTERN", help="list timm's names instead, such as 'convnext*'")
    try:
        given = parser.parse_args(arguments)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if given.match:
        if not (found := timm.list_models(given.match)):
            print(f"error: timm knows no name like {given.match!r}; '*' stands for anything", file=sys.stderr)
            return 2
        print("\n".join(found))
        return 0
    own = [name for name in find.names("models") if name != "timm"]
    models([*own, *TIMM], given.channels, given.size, given.batch)
    print(f"\nand {len(timm.list_models())} more of timm; list them with --match PATTERN")
    return 0


if __name__ == "__main__":
    with guarded():
        sys.exit(main())
