"""Images and features for TensorBoard, and that they are read back."""

from __future__ import annotations

import csv
import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from raylens import checkpoint, optim
from raylens.cluster import tensorboard, worker
from raylens.cluster.training import training
from raylens.data.stream import Resident


def saved(tiny, tmp_path, method: str, **sections) -> checkpoint.Checkpoint:
    run = tiny.run(method, **sections)
    made = worker.build(run, tiny.facts())
    optimizer = optim.build(run.optimizer, made.groups())
    checkpoint.save(tmp_path, run, tiny.facts(), made.result, {}, method=made, optimizer=optimizer, step=3)
    return checkpoint.read(tmp_path)


def test_views_stand_beside_their_images_and_candidates_in_their_order(tiny, tmp_path):
    found = saved(tiny, tmp_path, "adamatch")
    drawn = dict(tensorboard.pictures(found, tiny.resident().validation))
    assert drawn.keys() == {"views/source", "views/target", "first/target"}
    for picture in drawn.values():
        assert picture.min() >= 0
        assert picture.max() <= 1
    assert drawn["views/source"].shape == (1, 8 * 34, 3 * 34)  # the image, a weak and a strong view
    assert drawn["first/target"].shape == (1, 8 * 34, 4 * 34)


def test_a_target_of_three_images_is_a_row_of_three(tiny, tmp_path):
    found, splits = saved(tiny, tmp_path, "adda"), tiny.resident(rows=3).validation
    assert dict(tensorboard.pictures(found, splits))["first/target"].shape == (1, 34, 3 * 34)


def test_a_masked_autoencoder_shows_what_it_paints(tiny, tmp_path):
    found = saved(tiny, tmp_path, "mae", encoder={"name": "vit", "patch": 8, "features": 32, "depth": 1})
    data = tiny.resident(rows=12)
    drawn = dict(tensorboard.pictures(found, {"source": data.validation["source"]}))
    assert drawn["painted"].shape == (1, 8 * 34, 4 * 34)
    assert "first/target" not in drawn


def test_features_name_domain_and_the_label_of_the_source_alone(tiny, tmp_path):
    found, splits = saved(tiny, tmp_path, "adda"), tiny.resident().validation
    made = tensorboard.features(found, splits)
    assert len(made["mat"]) == len(made["metadata"]) == len(made["label_img"]) == 80
    assert {(domain, label) for domain, label, _ in made["metadata"]} == {
        ("source", "0"),
        ("source", "1"),
        ("target", ""),
    }


def test_tensorboard_reads_what_is_written(tiny, tmp_path):
    found, out = saved(tiny, tmp_path / "model", "adda"), tmp_path / "out"
    tensorboard._write(str(found.folder), Resident({}, tiny.resident().validation), str(out))
    events = EventAccumulator(str(out)).Reload()
    assert set(events.Tags()["images"]) == {"views/source", "views/target", "first/target"}
    assert events.Images("views/source")[0].step == 3
    (table,) = out.rglob("metadata.tsv")
    assert next(csv.reader(table.open(), delimiter="\t")) == ["domain", "label", "probability"]
    assert (out / "projector_config.pbtxt").exists()


def reports(path, *steps: int) -> str:
    """A training's reports at these steps."""
    lines = [
        {"loss/supervised": 1 / step, "warnings": "it is cold", "source/auroc": None, "step": step}
        for step in steps
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return str(path)


def test_curves_are_those_of_the_reports_and_there_once_when_a_training_has_gone_on(tiny, tmp_path):
    found, out = saved(tiny, tmp_path / "model", "adda"), str(tmp_path / "out")
    given = str(found.folder), Resident({}, tiny.resident().validation), out
    for steps in ((2, 4), (2, 4, 6)):
        tensorboard._write(*given, reports(tmp_path / "reports.jsonl", *steps))
        events = EventAccumulator(out).Reload()
        assert events.Tags()["scalars"] == ["loss/supervised"]
        drawn = [(point.step, point.value) for point in events.Scalars("loss/supervised")]
        assert drawn == [(step, pytest.approx(1 / step)) for step in steps]


def test_a_training_shows_its_reports(tiny, monkeypatch):
    """All but the training itself, which tests/cluster/test_stop.py has."""
    shown = []
    stubs = {
        "ready": lambda run, *given: (run, "facts"),
        "loaded": lambda *given: "data",
        "copy": lambda *given: None,
        "launch.train": lambda *given: "checkpoint",
        "tensorboard.write": lambda run, *given: shown.append(given),
    }
    for name, stub in stubs.items():
        monkeypatch.setattr(f"raylens.cluster.training.{name}", stub)
    training(tiny.run("supervised", storage="/runs", name="first"))
    assert shown == [
        (
            "/runs/first/last",
            "data",
            "/runs/first/tensorboard",
            "/runs/first/workers/reports.jsonl",
        )
    ]
