"""Predictions over any number of images, as Ray Data tasks that read and actors that hold the models.

    predict.json          what was asked; a folder with another one is refused
    images.parquet        of what: the pieces, by name and digest; what was added since makes further pieces
    predictions/          Parquet files, each of rows of one piece of the images: PIECE-ROW-COUNT[-last].parquet
    candidates.csv        the images of the highest probability of the last class, or of another that is named
    candidates.png        the same as pictures
    failed.csv            images that could not be read, and why

What is in predictions/ is not predicted again.
"""

from __future__ import annotations

import hashlib
import heapq
import io
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import softmax

from raylens import checkpoint
from raylens.cluster.folders import hold
from raylens.cluster.progress import EVERY, Clock
from raylens.data.convert import counted
from raylens.data.formats import Options
from raylens.data.pieces import Piece, Reader, packed, record, runs
from raylens.data.shards import read_manifest
from raylens.data.tasks import ray_data
from raylens.errors import ConfigError
from raylens.loop import collect
from raylens.progress import track
from raylens.storage import delete, exists, listed, parquet, patient, read, write

READS = 0.5
"""CPUs of a task that reads images."""
PART = re.compile(r"(\d{6,})-(\d{9,})-(\d+)(-last)?\.parquet")


@dataclass(frozen=True)
class Correction:
    """What logits (N, K) become before they are probabilities: calibrated, and of another share of each class."""

    temperature: float = 1.0
    shift: tuple[float, ...] = ()

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities (N, K), in double precision."""
        return softmax(
            np.asarray(logits, np.float64) / self.temperature + np.array(self.shift or 0.0), axis=1
        )


@dataclass(frozen=True)
class Request:
    """What is to be predicted, by which models, how."""

    checkpoints: tuple[str, ...]
    images: str
    out: str
    split: str | None = None
    dihedral: bool = False
    features: bool = False
    calibrate: str | None = None
    prior: tuple[float, ...] | None = None
    """Share of each class among the images."""
    corrections: tuple[Correction, ...] = ()
    """One a checkpoint, as `calibrate` and `prior` have it; a resumed prediction keeps those that it began with."""
    top: int = 100
    candidates: str | None = None
    """Class whose likeliest images are the candidates; the last without it."""
    batch: int = 256
    cpus: float = 1.0
    gpus: float | None = None

    def shaping(self) -> dict[str, Any]:
        """All that a prediction depends on, in plain values."""
        named = ("checkpoints", "images", "split", "dihedral", "features", "calibrate", "prior")
        return _plain({name: getattr(self, name) for name in named})


def predict(request: Request, reader: Reader, pieces: Sequence[Piece]) -> str:
    """Predict what is not yet predicted, then gather candidates and failures; returns the folder. Needs Ray."""
    gpus, most = _room(request)
    hold(request.out, "--out")
    request, pieces = _begun(request, reader, pieces)
    known = done(request.out)
    left = {
        number: known.get(number, {}) for number in range(len(pieces)) if not whole(known.get(number, {}))
    }
    taken = sum(len(rows) for parts in known.values() for rows in parts)
    if taken:
        print(
            f"{request.out} has {taken} predictions; going on with {len(left)} of {len(pieces)} pieces",
            flush=True,
        )
    if left:
        _run(request, reader, {number: pieces[number] for number in left}, left, gpus=gpus, most=most)
    gather(request, reader, pieces)
    return request.out


def done(out: str) -> dict[int, dict[range, bool]]:
    """Rows of each piece that are in predictions/, and whether a file holds the piece's last."""
    found: dict[int, dict[range, bool]] = {}
    for match in written(out):
        piece, rows, last = _held(match)
        found.setdefault(piece, {})[rows] = last
    return found


def written(out: str) -> list[re.Match]:
    """The names of the files of predictions/, in order, which have no row in common once this is done.

    An actor may outlive its driver for a while, and write rows that the next one has begun to predict anew.
    """
    names = listed(f"{out}/predictions")
    left = {name for name in names if name.endswith(".partial")}  # by a process that was killed as it wrote
    kept: list[re.Match] = []
    before, end = -1, 0
    for match in sorted(filter(None, map(PART.fullmatch, names)), key=_order):
        piece, rows, last = _held(match)
        end = end if piece == before else 0
        if rows.start < end:
            if rows.stop > end:
                with parquet(f"{out}/predictions/{match[0]}") as held:
                    table = held.read()
                rest = _name(piece, end, rows.stop - end, last)
                _write_table(f"{out}/predictions/{rest}", table.slice(end - rows.start))
                kept.append(PART.fullmatch(rest))
            left.add(match[0])
        else:
            kept.append(match)
        before, end = piece, max(end, rows.stop)
    for name in left - {match[0] for match in kept}:
        delete(f"{out}/predictions/{name}")
    return kept


def _name(piece: int, begin: int, count: int, last: bool) -> str:
    return f"{piece:06d}-{begin:09d}-{count}{'-last' if last else ''}.parquet"


def _held(match: re.Match) -> tuple[int, range, bool]:
    """Piece and rows that a file holds, by its name, and whether they are the piece's last."""
    begin = int(match[2])
    return int(match[1]), range(begin, begin + int(match[3])), bool(match[4])


def _order(match: re.Match) -> tuple[int, int, int, bool]:
    """By piece and row; of those that begin with the same, the longest first, and then the last."""
    piece, rows, last = _held(match)
    return piece, rows.start, -len(rows), not last


def whole(parts: Mapping[range, bool]) -> bool:
    """Whether the parts of a piece follow one another from its first row to its last."""
    end, last = 0, False
    for rows in sorted(parts, key=lambda rows: rows.start):
        if rows.start > end:
            return False
        if rows.stop >= end:
            end, last = rows.stop, parts[rows]
    return last


def _begun(request: Request, reader: Reader, pieces: Sequence[Piece]) -> tuple[Request, Sequence[Piece]]:
    """The request with the corrections, and the pieces with the numbers, that the folder's predictions have.

    Raises ConfigError when those are others. Corrections are not compared: what a model says of the same images
    differs in its last digits from run to run.
    """
    path, images = f"{request.out}/predict.json", f"{request.out}/images.parquet"
    asked = _asked(request, reader)
    if not exists(path):
        _write_table(images, record(pieces))
        asked["corrections"] = [asdict(one) for one in request.corrections]
        write(path, json.dumps(asked, indent=1))
        return request, pieces
    held = {"dihedral": False} | json.loads(read(path))  # which earlier versions did not know
    for name, value in asked.items():
        if held.get(name) != value:
            raise ConfigError(
                f"--out {request.out} has predictions {_other(name, held, asked)}; name another folder"
            )
    if not exists(images):
        raise ConfigError(f"--out {request.out} has predictions by an earlier version; name another folder")
    fs, inner = patient(images)
    pieces, change = reader.grown(pq.read_table(inner, filesystem=fs), pieces)
    if change.changed or change.gone:
        told = " and ".join(
            f"{len(names)} {what} (such as {names[0]})"
            for names, what in ((change.changed, "changed"), (change.gone, "gone"))
            if names
        )
        raise ConfigError(
            f"--out {request.out} has predictions of what {request.images} held before: {told}; name another folder, "
            "or delete that one to predict all of them again"
        )
    if change.added:
        print(
            f"{len(change.added)} file(s) were added to {request.images} since {request.out} was begun",
            flush=True,
        )
        _write_table(images, record(pieces))
    corrections = (Correction(one["temperature"], tuple(one["shift"])) for one in held["corrections"])
    return replace(request, corrections=tuple(corrections)), pieces


def _asked(request: Request, reader: Reader) -> dict[str, Any]:
    """All that predictions depend on, but for the images."""
    shape = {name: getattr(reader.shape, name) for name in ("bands", "crop", "size")}
    read_as = asdict(reader.options) | {"masked": reader.shape.masked}
    usual = asdict(Options()) | {"masked": None}
    shape |= {name: value for name, value in read_as.items() if value != usual[name]}
    weights = [
        (checkpoint.read(one).folder / "model.safetensors").read_bytes() for one in request.checkpoints
    ]
    asked = request.shaping() | _plain({"shape": shape, "transform": reader.transform})
    asked["weights"] = [_digest(one) for one in weights]
    if request.calibrate:
        asked["calibration"] = _digest(repr(read_manifest(request.calibrate)).encode())
    return asked


def _other(name: str, held: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """How predictions that are there differ from those that are asked for, in words."""
    if name == "weights":
        pairs = zip(asked["checkpoints"], held[name], asked[name], strict=True)
        changed = ", ".join(path for path, then, now in pairs if then != now)
        return f"by what {changed} was before it was trained again"
    if name == "calibration":
        return f"calibrated on what {asked['calibrate']} was before it was made again"
    return f"with {name} {held.get(name)!r}, and {asked[name]!r} was given"


def _write_table(path: str, table: pa.Table) -> None:
    """Write a Parquet file, whole or not at all."""
    held = io.BytesIO()
    pq.write_table(table, held, compression="zstd")
    write(path, held.getvalue())


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _room(request: Request) -> tuple[float, int]:
    """GPUs of each process, and the processes that there is room for. Raises ConfigError when there is for none."""
    from raylens.cluster import nodes

    there = nodes.capacity()
    gpus = (1.0 if there["GPU"] else 0.0) if request.gpus is None else request.gpus
    if gpus > there["GPU"]:
        raise ConfigError(f"--gpus is {gpus:g}, the cluster has {there['GPU']:g}; lower it, or set it to 0")
    if (
        request.cpus + READS > there["CPU"]
    ):  # or the processes that predict leave nothing to read by, and all wait
        most = there["CPU"] - READS
        raise ConfigError(
            f"--cpus is {request.cpus:g}, the cluster has {there['CPU']:g} and reading takes {READS:g}; "
            f"set it to {most:g} or less"
        )
    return gpus, max(1, int(there["GPU"] / gpus if gpus else there["CPU"] / request.cpus))


def _run(
    request: Request,
    reader: Reader,
    pieces: Mapping[int, Piece],
    known: Mapping[int, Any],
    *,
    gpus: float,
    most: int,
) -> None:
    """Read, predict and write what is left, on all of the cluster."""
    import ray

    held = {number: ray.put((piece, list(known[number]))) for number, piece in pieces.items()}

    def blocks(batch: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        for number in batch["item"].tolist():
            for block in reader.blocks(*ray.get(held[number])):
                yield packed(number, block)

    data = ray_data().from_items([*pieces], override_num_blocks=len(pieces))
    data = data.map_batches(blocks, batch_size=1, num_cpus=READS)
    data = data.map_batches(
        Predictor,
        fn_constructor_args=(request,),
        batch_size=None,
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
        num_cpus=request.cpus,
        num_gpus=gpus,
    )
    clock, told, rows, seen = Clock(), 0.0, 0, set()
    for batch in data.iter_batches(batch_size=None, prefetch_batches=0):
        rows += int(batch["rows"].sum())
        seen.update(batch["piece"][batch["last"]].tolist())
        if time.monotonic() - told > EVERY:
            told = time.monotonic()
            since, wait = clock.read(len(seen), len(pieces) - len(seen))
            print(f"{since} {rows} images, {len(seen)}/{len(pieces)} pieces{wait}", flush=True)


class Predictor:
    """An actor of Ray Data's, with the models; it writes what they say of each run of rows as a file."""

    def __init__(self, request: Request) -> None:
        from raylens.cluster.launch import quiet, task_device

        quiet(int(request.cpus))
        self.request, self.device = request, task_device()
        found = [checkpoint.read(path) for path in request.checkpoints]
        self.models = [one.model(self.device, dihedral=request.dihedral) for one in found]
        self.tasks = [one.facts.task(one.run.task) for one in found]
        self.first = found[0]

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        made = []
        for rows in runs(batch):
            some = {name: values[rows] for name, values in batch.items()}
            piece, begin, last = int(some["piece"][0]), int(some["row"][0]), bool(some["last"][-1])
            count = len(some["row"])
            _write_table(
                f"{self.request.out}/predictions/{_name(piece, begin, count, last)}", self.table(some)
            )
            made.append((piece, count, last))
        pieces, counts, lasts = zip(*made, strict=True)
        return {"piece": np.array(pieces), "rows": np.array(counts), "last": np.array(lasts)}

    def table(self, some: Mapping[str, np.ndarray]) -> pa.Table:
        """What the models say of rows: a row each, null where an image could not be read."""
        about = [json.loads(text) for text in some["about"]]
        failed = np.array([bool(reason) for _, reason, _ in about])
        columns: dict[str, Any] = {
            "id": pa.array([one for one, _, _ in about], pa.string()),
            "row": some["row"],
        }
        outputs = [
            collect(model, some["pixels"], None, batch=self.request.batch, device=self.device)
            for model in self.models
        ]
        for name, values in self.named([output.logits for output in outputs]).items():
            columns[name] = pa.array(values, mask=failed)
        if self.request.features:
            for number, output in enumerate(outputs):
                name = f"features_{number}" if len(outputs) > 1 else "features"
                columns[name] = pa.FixedSizeListArray.from_arrays(
                    pa.array(output.features.ravel()), output.features.shape[1], mask=pa.array(failed)
                )
        columns["failed"] = pa.array([reason or None for _, reason, _ in about], pa.string())
        columns["about"] = pa.array([json.dumps(column) for _, _, column in about], pa.string())
        return pa.table(columns)

    def named(self, logits: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Columns of numbers (N,): probabilities of the classes, or the number that is predicted, and their spread."""
        task = self.first.run.task.name
        if task == "pretraining":
            return {}
        if task == "regression":
            said = [task.predict(one) for task, one in zip(self.tasks, logits, strict=True)]
            return _mean(self.first.run.task.target, np.stack(said))
        corrections = self.request.corrections or (Correction(),) * len(logits)
        chances = np.stack([correct(one) for correct, one in zip(corrections, logits, strict=True)])
        classes = self.first.facts.classes
        if len(classes) == 2:
            return _mean("probability", chances[..., 1])
        columns = {}
        for index, name in enumerate(classes):
            columns |= _mean(f"probability_{name}", chances[..., index])
        return columns


def _mean(name: str, said: np.ndarray) -> dict[str, np.ndarray]:
    """The mean of what models say (M, N), and its standard deviation if they are several."""
    return {name: said.mean(0)} | ({f"{name}_spread": said.std(0)} if len(said) > 1 else {})


def gather(request: Request, reader: Reader, pieces: Sequence[Piece]) -> None:
    """candidates.csv, candidates.png and failed.csv of all predictions, one file at a time in memory."""
    found = checkpoint.read(request.checkpoints[0])
    classes = found.facts.classes
    ranked = found.run.task.name == "classification"
    of = request.candidates or classes[-1] if ranked else ""
    score = "probability" if len(classes) == 2 or not ranked else f"probability_{of}"
    sign = -1 if len(classes) == 2 and of == classes[0] else 1
    best: list[tuple[float, int, int, dict[str, Any]]] = []
    failed, total = [], 0
    for match in track(written(request.out), "gathering files"):
        with parquet(f"{request.out}/predictions/{match[0]}") as file:
            columns = [name for name in file.schema_arrow.names if not name.startswith("features")]
            table = file.read(columns=columns).to_pandas()
        total += len(table)
        failed += table.loc[table["failed"].notna(), ["id", "failed"]].to_dict("records")
        if ranked:
            good = table[table["failed"].isna()]
            good = (good.nsmallest if sign < 0 else good.nlargest)(request.top, score)
            rows = [
                (sign * row[score], -int(match[1]), -int(row["row"]), row) for row in good.to_dict("records")
            ]
            best = heapq.nlargest(request.top, [*best, *rows], key=lambda one: one[:3])
    listed = pd.DataFrame(failed, columns=["id", "failed"])
    write(f"{request.out}/failed.csv", listed.to_csv(index=False))
    unfit = list(listed.itertuples(index=False, name=None))
    if len(unfit) == total:
        raise reader.unreadable(request.images, unfit)
    print(f"{total - len(failed)} images predicted", flush=True)
    if unfit:
        print(
            f"{len(unfit)} could not be read, {request.out}/failed.csv lists them: {counted(unfit)}",
            flush=True,
        )
    if not ranked:
        return
    chosen = []
    for *_, row in best:
        said = {name: value for name, value in row.items() if name not in ("failed", "about", "row")}
        beside = json.loads(row["about"])
        chosen.append(
            said | {f"{name}_" if name in (*said, "rank") else name: value for name, value in beside.items()}
        )
    listed = pd.DataFrame(chosen, dtype=object)  # whole numbers stay whole beside rows without any
    listed.insert(0, "rank", range(1, len(listed) + 1))
    write(f"{request.out}/candidates.csv", listed.to_csv(index=False))
    if chosen:
        places = [(-piece, -row) for _, piece, row, _ in best]
        from raylens.pictures import chance, sheet

        labels = [f"{rank}: {chance(row[score])}\n{row['id']}" for rank, row in enumerate(chosen, 1)]
        images = _images(reader, pieces, places)
        write(f"{request.out}/candidates.png", sheet(images, labels, reader.transform, found.facts.bands))


def _images(reader: Reader, pieces: Sequence[Piece], places: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """Preprocessed images (C, H, W) at these rows of these pieces, read again."""
    found: dict[tuple[int, int], np.ndarray] = {}
    by_piece = [(piece, [*some]) for piece, some in groupby(sorted(places), key=lambda place: place[0])]
    for piece, some in track(by_piece, "reading candidates again"):
        wanted = {row for _, row in some}
        for block in reader.blocks(pieces[piece]):
            for row in wanted & set(range(block.begin, block.begin + len(block.ids))):
                found[piece, row] = block.pixels[row - block.begin].copy()
            if len([row for row in wanted if (piece, row) in found]) == len(wanted):
                break
    return [found[place] for place in places]
