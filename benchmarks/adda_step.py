"""A step of ADDA: `python benchmarks/adda_step.py [ENCODER ...] [--rows N] [--steps N] [--turns N]`.

Compares the step as it was published for lens finding, two optimizers and backward through both encoders, with a step
of `raylens.loop.fit`, its reports with it. Same encoder and weights, same batches, one thread, in turns in the same
run. The seconds are the processor's: those of a single thread do not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from raylens import config, optim
from raylens.checkpoint import Facts
from raylens.cluster.worker import build
from raylens.data.shards import LENS_CLASSES
from raylens.loop import fit
from raylens.methods.adda import ADDA
from raylens.records import Images

SIZE = 64


def published(method: ADDA, batches: list, steps: int) -> Callable[[], None]:
    """The predecessor's training loop; each call takes `steps` steps."""
    source_encoder = plain(method.source_encoder).requires_grad_(True).eval()
    target_encoder = plain(method.model.encoder).train()
    discriminator = copy.deepcopy(method.discriminator).train()
    opponents = [(discriminator, 1e-4), (target_encoder, 1e-6)]
    optimizers = [torch.optim.AdamW(net.parameters(), lr, weight_decay=1e-5) for net, lr in opponents]
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10_000) for optimizer in optimizers]
    endless = itertools.cycle(batches)

    def turn() -> None:
        for batch in itertools.islice(endless, steps):
            source, target = batch["source"].views["view"], batch["target"].views["view"]
            on_source = discriminator(source_encoder(source))
            on_target = discriminator(target_encoder(target))
            loss = F.binary_cross_entropy_with_logits(on_source, torch.zeros_like(on_source))
            loss = loss + F.binary_cross_entropy_with_logits(on_target, torch.ones_like(on_target))
            optimizers[0].zero_grad()
            loss.backward()  # through both encoders, for gradients that nobody uses
            optimizers[0].step()
            schedules[0].step()

            on_target = discriminator(target_encoder(target))
            loss = F.binary_cross_entropy_with_logits(on_target, torch.zeros_like(on_target))
            optimizers[1].zero_grad()
            loss.backward()
            optimizers[1].step()
            schedules[1].step()

    return turn


def plain(encoder: nn.Module) -> nn.Module:
    """A copy; timm's networks as their authors use them, without the channels-last layout that raylens gives them."""
    encoder = copy.deepcopy(encoder)
    if not hasattr(encoder, "network"):
        return encoder
    return nn.Sequential(encoder.network, encoder.project).to(memory_format=torch.contiguous_format)


def ours(method: ADDA, run: config.Run, batches: list) -> Callable[[], None]:
    """raylens.loop; each call goes on to the next report."""
    optimizer = optim.build(run.optimizer, method.groups())
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    reports = fit(method, method, itertools.cycle(batches), run, optimizer, scaler)
    return lambda: next(reports)


def measure(encoder: str, rows: int, steps: int, turns: int) -> None:
    run = config.build(
        {
            "method.name": "adda",
            "encoder.name": encoder,
            "data.batch": rows,
            "fit.steps": 10_000,
            "fit.report_every": steps,
        }
    )
    method = build(run, Facts(LENS_CLASSES, 1, SIZE, {}))
    rng = torch.Generator().manual_seed(0)
    batches = [
        {
            "source": Images(
                {"view": torch.rand(rows, 1, SIZE, SIZE, generator=rng)}, torch.arange(rows) % 2
            ),
            "target": Images({"view": torch.rand(rows, 1, SIZE, SIZE, generator=rng)}),
        }
        for _ in range(4)
    ]
    theirs, ours_ = published(method, batches, steps), ours(method, run, batches)
    seconds = {theirs: [], ours_: []}
    for turn in range(turns + 1):  # the first one warms up
        for work, times in seconds.items():
            start = time.process_time()
            work()
            if turn:
                times.append((time.process_time() - start) / steps)
    ratios = sorted(a / b for a, b in zip(seconds[theirs], seconds[ours_], strict=True))
    print(f"{encoder}: {rows} + {rows} images of {SIZE} x {SIZE}, median of {turns} turns of {steps} steps")
    print(f"  as published  {1000 * statistics.median(seconds[theirs]):9.1f} ms a step")
    print(f"  raylens       {1000 * statistics.median(seconds[ours_]):9.1f} ms a step")
    print(
        f"  ratio         {statistics.median(ratios):9.2f} x  ({ratios[0]:.2f} to {ratios[-1]:.2f})",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "encoders", nargs="*", default=["small"], help="such as small, resnet34, efficientnet_b2"
    )
    parser.add_argument("--rows", type=int, default=100, help="images of each domain in a batch")
    parser.add_argument("--steps", type=int, default=10, help="steps in a turn")
    parser.add_argument("--turns", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.encoders:
        measure(name, given.rows, given.steps, given.turns)
