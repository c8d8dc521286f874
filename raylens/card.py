"""The card of a model that leaves raylens: what it is for, what it was made of, what it is worth, how to load it.

Mitchell et al. 2019 (arXiv 1810.03993), as far as a checkpoint knows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.fs

from raylens import storage
from raylens.checkpoint import Checkpoint
from raylens.errors import ConfigError
from raylens.metrics import explain
from raylens.predictor import Predictor
from raylens.standalone import FORMATS
from raylens.storage import filesystem


def card(
    found: Checkpoint, ready: Predictor, differences: Mapping[str, float], more: Sequence[Mapping] = ()
) -> str:
    """model-card.md of a checkpoint that was written in the formats of `differences`, by format their largest.

    `more` are reports that are not beside the checkpoint, see `given`.
    """
    run = found.run
    task = ready.task.card.format(
        classes=", ".join(ready.classes), target=ready.target, factor=found.facts.factor
    )
    parts = [
        f"# {run.name or found.folder.resolve().parent.name or 'model'}\n",
        f"A network that {task}. Encoder `{run.encoder.name}`, method `{run.method.name}`, trained by raylens.\n",
        "## To load it\n",
        *loading(ready, [*differences]),
        f"`images` are float32 (N, {ready.channels}, {ready.size}, {ready.size}) in the units of the data; they are "
        f"preprocessed (`{ready.transform}`) inside. {meaning(ready)}\n",
        "## Data\n",
        *data(found),
        "## Measured\n",
        *measured(found, more),
        "## Intended use and limits\n",
        *(f"- {line}" for line in limits(found, ready)),
        "\n## Versions\n",
        *versions(found, differences),
    ]
    return "\n".join(parts) + "\n"


def loading(ready: Predictor, formats: Sequence[str]) -> Iterator[str]:
    """A few lines of code for each format."""
    if "onnx" in formats:
        yield (
            "```python\nimport onnxruntime\n"
            f'session = onnxruntime.InferenceSession("{FORMATS["onnx"]}")\n'
            f'{ready.task.gives} = session.run(None, {{"pixels": images}})[0]\n```\n'
        )
    if "torch" in formats:
        yield (
            "```python\nimport torch\n"
            f'model = torch.export.load("{FORMATS["torch"]}").module()\n'
            f"{ready.task.gives} = model(torch.from_numpy(images)).numpy()\n```\n"
        )


def meaning(ready: Predictor) -> str:
    """What comes out."""
    if ready.kind == "classification":
        columns = ", ".join(f"{index} {name}" for index, name in enumerate(ready.classes))
        return f"Out come probabilities (N, {len(ready.classes)}), columns {columns}."
    if ready.kind == "regression":
        return f"Out comes {ready.target}, (N,), in its own unit."
    if ready.kind == "super_resolution":
        return "Out come images in the units of the preprocessed ones, about 0 to 1."
    return f"Out come features (N, {ready.model.encoder.dim})."


def data(found: Checkpoint) -> Iterator[str]:
    """A table of the splits of each domain, with hashes; several files have the hash of their hashes in order."""
    if not found.facts.manifests:
        yield "The checkpoint names no data.\n"
        return
    yield "| domain | set | split | images | classes | SHA-256 |\n|---|---|---|---|---|---|"
    for stream, held in found.facts.manifests.items():
        for split, part in held["splits"].items():
            hashes = [file["sha256"] for file in part["files"]]
            whole = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
            counts = ", ".join(f"{count} {name}" for name, count in part["labels"].items())
            yield f"| {stream} | {held['name'] or '-'} | {split} | {part['rows']} | {counts or '-'} | `{whole}` |"
    yield ""
    for stream, held in found.facts.manifests.items():
        scale = held.get("arcsec_per_pixel")
        pixel = f"{scale:g} arcsec per pixel" if scale else "pixels of unknown scale"
        bands = ", ".join(held.get("bands") or ()) or "unknown"
        yield f"{stream}: bands {bands}; {pixel}; made by `{(held.get('made') or {}).get('command', 'unknown')}`.  "
    if len(found.facts.manifests) > 1:
        yield "No label of the target took part in training" + (
            ", but its labels chose the model (search.oracle)."
            if found.run.search.oracle
            else " or in choosing."
        )
    yield ""


def measured(found: Checkpoint, more: Sequence[Mapping]) -> Iterator[str]:
    """Tables of what the search or the finetuning measured, and what raylens.evaluate left."""
    reports = [*evaluations(found), *more]
    if not reports:
        yield (
            "Not yet: `python -m raylens.evaluate CHECKPOINT --data DIR` measures it, and another export brings the "
            "figures here.\n"
        )
    for report in reports:
        where = f" where {report['where']}" if report.get("where") else ""
        rows = f", {report['rows']} images" if "rows" in report else ""
        name = report["data"].rstrip("/").rpartition("/")[2]
        other = report.get("batch_norm_from")
        normed = f", with batch norm's statistics of {other.rstrip('/').rpartition('/')[2]}" if other else ""
        turned = ", on average of the eight turns and mirrors of each" if report.get("dihedral") else ""
        yield f"{name}, {report['split']}{where}{rows}{normed}{turned}:\n"
        if report.get("warning"):
            yield f"**{report['warning']}**\n"
        yield "| metric | value | 95 % interval | meaning |\n|---|---|---|---|"
        for name, one in report["metrics"].items():
            interval = f"{one['low']:.4g} to {one['high']:.4g}"
            yield f"| {name} | {one['value']:.4g} | {interval} | {explain(name).meaning} |"
        yield ""


def evaluations(found: Checkpoint) -> Iterator[dict[str, Any]]:
    """The reports beside the checkpoint that are of it: its run's in test.json, and those in evaluation/."""
    at = found.address if "://" in found.address else str(found.folder.resolve())
    (above, _, name), used = at.rstrip("/").rpartition("/"), found.run.data
    fs, inner = filesystem(above)
    try:
        held = json.loads(storage.read(f"{above}/test.json"))
        about = {
            "data": used.test or used.target or used.source or "",
            "split": "test",
            "warning": held.get("warning"),
        }
        yield about | held[name]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # neither a search nor a finetuning, or none of its models was released
    measured = pyarrow.fs.FileSelector(f"{inner}/evaluation", recursive=True, allow_not_found=True)
    for path in sorted(info.path for info in fs.get_file_info(measured) if info.base_name == "metrics.json"):
        try:
            with fs.open_input_stream(path) as file:
                report = json.loads(file.read())
            if of(found, report) and report["metrics"]:
                yield report
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not one of ours


def given(found: Checkpoint, path: Path) -> dict[str, Any]:
    """What is in a metrics.json of raylens.evaluate. Raises ConfigError when it is none, or of another checkpoint."""
    try:
        report = json.loads(path.read_text())
        right, _ = of(found, report), report["metrics"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"--metrics {path} is no metrics.json of raylens.evaluate") from None
    if not right:
        raise ConfigError(
            f"--metrics {path} is of {report['checkpoint']}, which has other weights than {found.address}; measure "
            "this one"
        )
    return report


def of(found: Checkpoint, report: Mapping[str, Any]) -> bool:
    """Whether a report is of these weights; of one that does not say its weights, of a folder of this name."""
    if held := report.get("weights"):
        return held == found.weights
    return Path(str(report["checkpoint"])).name == found.address.rstrip("/").rpartition("/")[2]


def limits(found: Checkpoint, ready: Predictor) -> Iterator[str]:
    """What it is for, and what it is not."""
    side = f"{ready.size} x {ready.size} pixels and {ready.channels} channel(s)"
    yield f"For images like those above, of {side}, the object in the middle; it says something of any other image too."
    if ready.kind == "classification":
        counts = found.facts.manifests.get("source", {}).get("splits", {}).get("train", {}).get("labels", {})
        total = sum(counts.get(name, 0) for name in ready.classes)
        if found.run.data.balance is not None:
            learned = f", {found.run.data.balance:.3g} of the last class in each batch"
        elif total:
            learned = f", {counts.get(ready.classes[-1], 0) / total:.3g} of the last class"
        else:
            learned = ""
        rare = (
            "; among candidates of a survey lenses are rarer, about 1 in 100 or less, and of what is called a lens at "
            "0.5 much may be none: rank, or correct for the share (`python -m raylens.predict --prior`)"
        )
        yield (
            f"Probabilities are those of a sample with the classes in the shares of its training{learned}"
            f"{rare if 'lens' in ready.classes else '; among images with other shares they are off (label shift)'}."
        )
        prior = getattr(found.run.method, "target_prior", None)
        if prior is not None:
            yield f"The method was told that {prior:g} of the target are of the last class (target_prior)."
        yield "Probabilities were not calibrated; `python -m raylens.predict --calibrate` does so on labelled images."
    if ready.kind == "regression":
        mean, deviation = found.facts.scale
        yield f"Trained on {ready.target} of mean {mean:.4g} and deviation {deviation:.4g}; beyond them it guesses."
    if ready.kind == "super_resolution":
        yield "What is painted is likely, not seen: it is no measurement of details finer than the image has."
    yield (
        "On images of another instrument, seeing, depth or selection than the above it may fail without a sign; "
        "measure it on labelled ones first."
    )


def versions(found: Checkpoint, differences: Mapping[str, float]) -> Iterator[str]:
    yield f"- trained with {', '.join(f'{name} {number}' for name, number in found.versions.items()) or 'unknown'}"
    names = ["torch", *(["onnx", "onnxscript", "onnxruntime"] if "onnx" in differences else [])]
    yield f"- exported with {', '.join(f'{name} {version(name)}' for name in ('raylens', *names))}"
    yield f"- weights of the checkpoint: SHA-256 `{found.weights}`"
    for form, worst in differences.items():
        yield f"- `{FORMATS[form]}` differs from the checkpoint by at most {worst:.1g}, on random and extreme images"
