"""fit() and collect(): the two loops, and the only ones. They name no method and no cluster."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from raylens import optim
from raylens.config import Run
from raylens.ema import over_workers
from raylens.methods.base import Method
from raylens.models import Model
from raylens.records import Images, Outputs
from raylens.seeds import reseed, seed

_PRECISION = {"32": None, "bf16": torch.bfloat16, "16": torch.float16}


class Diverged(Exception):
    """A loss was not finite before `step`; the text names its terms and when it happened."""

    def __init__(self, text: str, step: int) -> None:
        super().__init__(text)
        self.step = step


def fit(
    method: Method,
    replica: nn.Module,
    batches: Iterable[Mapping[str, Images]],
    run: Run,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    *,
    start: int = 0,
    rank: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[int, dict[str, float]]]:
    """Train `method` from step `start`; `replica` is it, or its data-parallel wrapper.

    Yields (steps done, metrics since the last yield) every `fit.report_every` steps and at the end, at the same steps
    on every worker. All that is random in a step depends on the seed, the rank and the step. Raises Diverged.
    """
    steps, dtype = run.fit.steps, _PRECISION[run.fit.precision]
    method.train()
    report = _Report(method)
    for step, batch in enumerate(islice(batches, steps - start), start):
        report.waited()
        reseed(device, seed(run.seed, "step", rank, step))
        factor = optim.rate(run.optimizer, step, steps)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        batch = {name: images.to(device) for name, images in batch.items()}
        with torch.autocast(torch.device(device).type, dtype=dtype, enabled=dtype is not None):
            losses = replica(batch, step / steps)
            total = losses.total
        if total.requires_grad:  # a method may gather statistics and train nothing
            _update(total, optimizer, scaler, run.fit.clip)
        method.after_step(step / steps)
        report.add(step, losses.terms, losses.monitors, sum(map(len, batch.values())))
        if (step + 1) % run.fit.report_every == 0 or step + 1 == steps:
            yield step + 1, report.close(step + 1, optimizer)
            method.train()
            report = _Report(method)


def _update(
    total: Tensor, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, clip: float
) -> None:
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(total).backward()
    scaler.unscale_(optimizer)
    for group in optimizer.param_groups:  # each by itself, so that opponents stay apart
        clip_grad_norm_(group["params"], clip)
    scaler.step(optimizer)
    scaler.update()


class _Report:
    """Means of terms and monitors over the steps since the last report, kept on the device until it is due."""

    def __init__(self, method: Method) -> None:
        self.method, self.sums, self.steps, self.images = method, {}, 0, 0
        self.bad: dict[str, Tensor] = {}  # first step at which a term was not finite
        trained = any(p.requires_grad for p in method.parameters())
        self.before = [p.detach().clone() for p in method.result.parameters()] if trained else []
        self.began = self.asked = time.perf_counter()
        self.wait = 0.0

    def waited(self) -> None:
        self.wait += time.perf_counter() - self.asked

    def add(
        self, step: int, terms: Mapping[str, Tensor], monitors: Mapping[str, Tensor], images: int
    ) -> None:
        for name, term in terms.items():
            first = self.bad.get(name, torch.full((), math.inf, device=term.device))
            self.bad[name] = torch.where(term.detach().isfinite(), first, first.clamp_max(step))
        named = {f"loss/{name}": term for name, term in terms.items()}
        named.update({f"monitor/{name}": value for name, value in monitors.items()})
        for name, value in named.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach().float()
        self.steps += 1
        self.images += images
        self.asked = time.perf_counter()

    def close(self, step: int, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        means = torch.stack([*self.sums.values()]) / self.steps
        metrics = dict(zip(self.sums, over_workers(means).tolist(), strict=True))
        if not all(math.isfinite(value) for name, value in metrics.items() if name.startswith("loss/")):
            raise Diverged(self._diverged(step), step)
        if self.before:
            now = self.method.result.parameters()
            moved = sum((a.detach() - b).square().sum() for a, b in zip(now, self.before, strict=True))
            change = (moved / sum(b.square().sum() for b in self.before)).sqrt()
            metrics["monitor/weight_change"] = float(change)
        for group in optimizer.param_groups:
            if group["params"]:
                metrics[f"monitor/lr_{group['name']}"] = group["lr"]
        seconds = time.perf_counter() - self.began
        metrics["time/step"], metrics["time/wait"] = seconds / self.steps, self.wait / self.steps
        metrics["time/images"] = self.images / seconds
        return metrics

    def _diverged(self, step: int) -> str:
        first = {name: at.item() for name, at in self.bad.items()}
        began = min(first.values())
        if math.isinf(began):
            return f"not finite on another worker: a loss, within the {self.steps} steps before step {step}"
        bad = ", ".join(f"loss/{name}" for name, at in first.items() if at == began)
        return f"not finite at step {began:.0f}: {bad}"


@torch.inference_mode()
def collect(
    model: Model,
    pixels: np.ndarray,
    labels: np.ndarray | None,
    ids: np.ndarray | None = None,
    *,
    judge: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
    batch: int = 256,
    device: torch.device | str = "cpu",
    count: Callable[[int], object] | None = None,
) -> Outputs:
    """What `model`, in evaluation mode, says of preprocessed pixels (N, C, H, W): every row once.

    With `judge`, a task's, of what it says, labels and pixels the judgement (N, K) is kept in place of logits, and no
    features. `count` is called with the rows of each batch when it is done.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    features, logits = [], []
    for begin in range(0, max(1, len(pixels)), batch):
        on = torch.from_numpy(np.array(pixels[begin : begin + batch], dtype=np.float32)).to(device)
        if judge is None:
            found, said = model.said(on)
        else:
            found, true = on.new_zeros(len(on), 0), torch.from_numpy(np.array(labels[begin : begin + batch]))
            said = judge(model(on), true.to(device), on)
        features.append(found.float().cpu())
        logits.append(said.float().cpu())
        if count:
            count(len(on))
    for module, training in modes:
        module.training = training
    return Outputs(
        features=torch.cat(features).numpy(),
        logits=torch.cat(logits).numpy(),
        labels=labels,
        ids=np.arange(len(pixels)) if ids is None else ids,
    )


def mixtures(
    model: Model,
    pixels: np.ndarray,
    device: torch.device | str,
    rows: np.ndarray,
    others: np.ndarray,
    share: float,
) -> np.ndarray:
    """Logits (M, K) of `share` of the images `rows` (M,) of `pixels` and the rest of `others` (M,)."""
    mixed = share * pixels[rows] + (1 - share) * pixels[others]
    return collect(model, mixed, None, device=device).logits
