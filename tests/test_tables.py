"""The tables of a benchmark, on models whose worth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pandas import DataFrame

from raylens import metrics, tables
from raylens.grid import Cell
from raylens.tables import Entry, Said

LABELS = (np.arange(400) % 10 == 0).astype(int)


def model(worth: float, seed: int = 0, **scores: float) -> Said:
    """A model that tells lenses apart by `worth` standard deviations."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(400, 2))
    logits[:, 1] += worth * LABELS
    target = np.stack([np.zeros(300), np.arange(300) + 300 / max(worth, 0.1) * rng.normal(size=300)], axis=1)
    return Said(target, logits, LABELS, {"good": worth, "bad": -worth, **scores})


def entry(method: str, worths: list[float], released: int | None, seed: int, start: float = 1.0) -> Entry:
    trials = {draw: model(worth, seed=100 + 10 * seed + draw) for draw, worth in enumerate(worths)}
    kept = None if released is None else trials[released]
    return Entry(Cell(method, "small", seed), trials, kept, model(start, seed=seed))


@pytest.fixture
def entries():
    return [
        *(entry("strong", [2.5, 3.0, 2.0], 1, seed) for seed in range(3)),
        *(entry("weak", [0.2, 0.5], None if seed == 2 else 0, seed) for seed in range(3)),
    ]


def test_what_a_model_says_survives_being_written():
    made = model(1.0)
    again = Said.read(made.write())
    for name in ("target", "test", "labels"):
        np.testing.assert_array_equal(getattr(again, name), getattr(made, name))
    assert again.scores == made.scores
    assert again.auroc == made.auroc


def test_a_row_is_the_mean_over_seeds_and_its_difference_from_source_only(entries):
    table = tables.compared(entries).set_index("method")
    assert [*table.index] == ["source only", "strong", "weak"]
    strong, base = table.loc["strong"], table.loc["source only"]
    kept = [entry.trials[1] for entry in entries[:3]]
    assert strong["auroc"] == pytest.approx(np.mean([one.auroc for one in kept]))
    found = [metrics.binary(one.probabilities, LABELS)["tpr_at_fpr_1e-2"] for one in kept]
    assert strong["tpr_at_fpr_1e-2"] == pytest.approx(np.mean(found))
    assert strong["difference"] == pytest.approx(strong["auroc"] - base["auroc"])
    assert 0 < strong["difference_low"] < strong["difference"] < strong["difference_high"]
    assert strong["auroc_low"] < strong["auroc"] < strong["auroc_high"]
    assert (strong["below"], strong["refused"]) == (0, 0)
    assert np.isnan(base["difference"])
    for name in ("auprc", "tpr_at_fpr_1e-2"):
        low, found, high = (strong[f"{name}_difference{end}"] for end in ("_low", "", "_high"))
        assert found == pytest.approx(strong[name] - base[name])
        assert low < found < high


def test_methods_are_compared_with_one_that_trains_nothing(entries):
    plain = [entry("adabn", [1.5], 0, seed) for seed in range(3)]
    table = tables.compared([*entries, *plain]).set_index("method")
    strong, base = table.loc["strong"], table.loc["adabn"]
    assert strong["over_adabn"] == pytest.approx(strong["auroc"] - base["auroc"])
    assert strong["over_adabn_low"] < strong["over_adabn"] < strong["difference"]
    assert np.isnan(base["over_adabn"])
    assert "AUROC minus adabn" in tables.readable(table)
    assert "over_adabn" not in tables.compared(entries)


def test_where_no_trial_is_released_the_start_is_what_counts(entries):
    weak = tables.compared(entries).set_index("method").loc["weak"]
    assert (weak["below"], weak["refused"]) == (2, 1)
    last = entries[-1]
    assert last.kept is last.start
    assert last.best == last.start.auroc, "all trials are worse"
    lost = [entry.best - entry.trials[0].auroc for entry in entries[3:5]]
    assert weak["regret"] == pytest.approx(sum(lost) / 3)
    assert weak["worst"] == pytest.approx(max(lost))


def test_a_choice_below_the_start_gives_that_away_too(entries):
    table = tables.regret(entries).set_index("chosen by")
    lost = [entry.best - entry.kept.auroc for entry in entries]
    assert table.loc["as released", "regret"] == pytest.approx(np.mean(lost))
    assert (table["regret"] >= 0).all()


def test_a_score_that_is_no_number_is_not_chosen():
    trials = {0: model(2.0, 1), 1: replace(model(0.1, 2), scores={"good": np.nan, "bad": 0.0})}
    table = tables.regret([Entry(Cell("mcc", "small", 0), trials, trials[0], model(1.0))]).set_index(
        "chosen by"
    )
    assert table.loc["good", "regret"] == 0
    assert "agreement" not in table.index, "two agree alike"


def test_failed_trials_are_counted():
    table = tables.compared([entry("mcc", [2.0], 0, 0), replace(entry("mcc", [2.0], 0, 1), failed=2)])
    assert table["failed"].iloc[1] == 2
    assert "failed trials" in tables.readable(table)


def test_regret_is_what_each_choice_gives_away(entries):
    table = tables.regret(entries).set_index("chosen by")
    best = [max(entry.start.auroc, *(one.auroc for one in entry.trials.values())) for entry in entries]
    assert set(table.index) == {"good", "bad", "agreement", "the defaults", "as released"}
    defaults = [entry.trials[0].auroc for entry in entries]
    assert table.loc["the defaults", "regret"] == pytest.approx(np.mean(np.subtract(best, defaults)))
    assert table.loc["the defaults", "worst"] == pytest.approx(np.max(np.subtract(best, defaults)))
    weak = [entry.start.auroc - max(one.auroc for one in entry.trials.values()) for entry in entries[3:]]
    assert table.loc["good", "regret"] == pytest.approx(np.sum(weak) / 6, abs=0.02)
    assert table.loc["bad", "regret"] > table.loc["good", "regret"]
    starts = np.array([entry.start.auroc for entry in entries])
    kept = np.array([entry.kept.auroc for entry in entries])
    assert table.loc["as released", "below"] == pytest.approx((kept < starts).mean())
    assert table.loc["as released", "gain"] == pytest.approx((kept - starts).mean())
    assert table["searches"].to_dict() == {"agreement": 3} | dict.fromkeys(
        set(table.index) - {"agreement"}, 6
    )


def test_a_default_that_failed_counts_as_the_start():
    failed = entry("strong", [1.0, 3.0, 2.0], 1, 0)
    del failed.trials[0]
    table = tables.regret([failed]).set_index("chosen by")
    assert table.loc["the defaults", "regret"] == pytest.approx(failed.trials[1].auroc - failed.start.auroc)


def test_cells_of_one_trial_have_nothing_to_choose():
    assert tables.regret([entry("strong", [2.0], 0, 0)]).empty


def test_more_classes_than_two_have_an_auroc():
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    said = Said(rng.normal(size=(50, 3)), np.eye(3)[labels] + rng.normal(size=(90, 3)), labels, {"good": 1.0})
    table = tables.compared([Entry(Cell("mcc", "small", 0), {0: said}, said, said)])
    assert not any("auprc" in name for name in table)
    assert table["difference"].iloc[1] == 0


def test_tables_are_markdown_that_people_can_read(entries):
    text = tables.markdown(tables.readable(tables.compared(entries)))
    lines = text.splitlines()
    assert len({len(line) for line in lines}) == 1
    assert len(lines) == 2 + 3
    heads = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert heads[:4] == ["encoder", "method", "seeds", "AUROC"]
    assert "AUROC minus source only" in heads
    cells = dict(zip(heads, (cell.strip() for cell in lines[3].strip("|").split("|")), strict=True))
    assert cells["AUROC minus source only"].startswith("+0.")
    assert cells["none released"] == "0"
    assert [cell.strip() for cell in lines[2].strip("|").split("|")][-1] == ""
    shares = tables.markdown(tables.readable(tables.regret(entries)))
    assert "%" in shares


def test_a_matrix_has_a_row_for_each_method_and_a_column_for_each_encoder():
    auroc = {"auroc": 0.8, "auroc_low": 0.7, "auroc_high": 0.9}
    gain = {"difference": 0.1, "difference_low": -0.05, "difference_high": 0.2}
    rows = [
        {"encoder": "small", "method": "source only", **auroc},
        {"encoder": "small", "method": "adda", **auroc, **gain},
        {"encoder": "resnet", "method": "adda", **auroc, **gain},
        {"encoder": "resnet", "method": "mcc", **auroc, **gain},
    ]
    found = tables.matrix(DataFrame(rows)).set_index("method")
    assert [*found.index] == ["source only", "adda", "mcc"]
    assert [*found] == ["small", "resnet"]
    assert found.loc["source only", "small"] == "0.800 [0.700, 0.900]"
    assert found.loc["adda", "resnet"] == "0.800 [0.700, 0.900]\n+0.100 [-0.050, +0.200]"
    assert found.loc["mcc", "small"] == ""
