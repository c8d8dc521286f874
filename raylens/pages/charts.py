"""Charts of a search and of a model that answer to the mouse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import optuna
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from raylens.cluster.worker import WORST
from raylens.pages.runs import Trial
from raylens.pictures import COLOURS
from raylens.progress import track
from raylens.space import Choice, LogUniform, Range

FEWEST = 8
"""Trials below which it is not told what matters among their settings."""
RESAMPLES = 20
"""Of trials, behind the interval of an importance."""
LEAST = 0.05
"""Percent, where histograms begin: what is less is drawn there."""
SYMBOLS = {
    "ended": "circle",
    "stopped early": "x",
    "failed": "triangle-down",
    "unfinished": "circle-open",
}
GREY, DASHES, MARKS = "#8b939e", ("solid", "dot"), ("circle", "cross")
DOMAINS = (COLOURS[4], COLOURS[3])
"""Colours of domains: no class of two has them."""
OPEN = ("circle-open", "diamond-open", "square-open", "triangle-up-open", "cross-open", "x-open")


@dataclass(frozen=True)
class Look:
    """How a group of images is drawn."""

    colour: str = GREY
    dash: str = DASHES[0]
    symbol: str = MARKS[0]


def curves(trials: Sequence[Trial], first: str = "objective", *, rungs: Sequence[int] = ()) -> go.Figure:
    """Each reported number against steps, a line a trial, and dotted lines at `rungs`; a menu chooses the number."""
    names = _numbers(trials)
    names = [name for name in dict.fromkeys((first, *names)) if name in names]
    traces = []
    for at, name in enumerate(names):
        for number, trial in enumerate(trials):
            if name not in trial.reports:
                continue
            values = trial.reports[["step", name]].dropna()
            values = values[values[name] > WORST]
            last = ["circle"] * (len(values) - 1) + [SYMBOLS[trial.state]]
            colour = COLOURS[number % len(COLOURS)]
            traces.append(
                {
                    "type": "scatter",
                    "x": values["step"].to_numpy(),
                    "y": values[name].to_numpy(),
                    "name": trial.name,
                    "legendgroup": trial.name,
                    "mode": "lines+markers",
                    "visible": at == 0,
                    "line": {"color": colour, "width": 1.6},
                    "marker": {"symbol": last, "size": [4] * (len(values) - 1) + [9], "color": colour},
                    "hovertemplate": f"step %{{x}}: %{{y:.4g}}<br>{_told(trial)}<extra></extra>",
                    "meta": name,
                }
            )
    figure = go.Figure(traces)  # all at once: one by one takes the square of the time
    buttons = [
        {
            "label": name,
            "method": "update",
            "args": [
                {"visible": [trace["meta"] == name for trace in traces]},
                {"yaxis.title.text": name},
            ],
        }
        for name in names
    ]
    for step in rungs:
        figure.add_vline(x=step, line={"dash": "dot", "width": 1.5, "color": GREY}, layer="below")
    menu = {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.14, "yanchor": "bottom", "showactive": True}
    figure.update_layout(
        updatemenus=[menu] if len(names) > 1 else [],
        showlegend=1 < len(trials) <= len(COLOURS),
        legend={"orientation": "h", "y": -0.22},
    )
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(title_text=names[0] if names else "")
    return _plain(figure, 460)


def line(trials: Sequence[Trial], name: str) -> go.Figure:
    """One of the reported numbers against steps, a line a trial."""
    figure = go.Figure()
    for number, trial in enumerate(trials):
        if name in trial.reports:
            figure.add_scatter(
                x=trial.reports["step"],
                y=trial.reports[name],
                mode="lines",
                line={"color": COLOURS[number % len(COLOURS)], "width": 1.6},
                name=trial.name,
                showlegend=False,
                hovertemplate=f"step %{{x}}: %{{y:.4g}}<br>{_told(trial)}<extra></extra>",
            )
    return _plain(figure, 290).update_layout(title=_headline(name))


def parallel(trials: Sequence[Trial], space: Mapping[str, Range], metric: str = "objective") -> go.Figure:
    """A line a trial through what was searched, coloured by what it came to at its last report."""
    held = ended(trials, metric)
    dimensions = []
    for path, span in space.items():
        values = [trial.settings.get(path) for trial, _ in held]
        if isinstance(span, Choice):
            order = list(span.values)
            dimension = {"values": [order.index(value) if value in order else np.nan for value in values]}
            dimension |= {"tickvals": [*range(len(order))], "ticktext": [*map(str, order)]}
            dimension |= {"range": [0, max(1, len(order) - 1)]}
        elif isinstance(span, LogUniform):
            dimension = {"values": np.log10(np.asarray(values, float))}
            ticks = np.linspace(np.log10(span.low), np.log10(span.high), 5)
            dimension |= {"tickvals": ticks, "ticktext": [f"{10**tick:.2g}" for tick in ticks]}
            dimension |= {"range": [ticks[0], ticks[-1]]}
        else:
            dimension = {"values": np.asarray(values, float), "range": [span.low, span.high]}
        dimensions.append({"label": path.partition(".")[2] or path, **dimension})
    scores = np.array([score for _, score in held])
    dimensions.append({"label": metric, "values": scores})
    figure = go.Figure(
        go.Parcoords(
            dimensions=dimensions,
            line={"color": scores, "colorscale": "Viridis", "showscale": False},
            labelangle=-18,
            labelside="top",
        )
    )
    figure = _plain(figure, 440)
    return figure.update_layout(margin={"l": 70, "r": 60, "t": 110, "b": 24})


def importances(
    trials: Sequence[Trial], space: Mapping[str, Range], metric: str = "objective"
) -> pd.DataFrame | None:
    """What share of the differences between trials each setting explains, with a 95 % interval over trials.

    Functional ANOVA on a forest (Hutter et al. 2014), by Optuna. None of fewer than FEWEST trials, or where they do not
    differ. Columns: setting, importance, low, high.
    """
    held = ended(trials, metric)
    if len(held) < FEWEST or len({score for _, score in held}) < 2:
        return None
    found, random = _importance(held, space, metric), np.random.default_rng(0)
    drawn = []
    for _ in track(range(RESAMPLES), "what mattered"):
        some = [held[row] for row in random.integers(len(held), size=len(held))]
        if len({score for _, score in some}) > 1:
            drawn.append(_importance(some, space, metric))
    rows = [
        {
            "setting": path,
            "importance": share,
            **dict(
                zip(("low", "high"), np.quantile([one[path] for one in drawn], [0.025, 0.975]), strict=True)
            ),
        }
        for path, share in found.items()
    ]
    return pd.DataFrame(rows).sort_values("importance", ascending=False, ignore_index=True)


def bars(table: pd.DataFrame) -> go.Figure:
    """What `importances` tells."""
    table = table.iloc[::-1]
    spread = {
        "type": "data",
        "symmetric": False,
        "array": (table["high"] - table["importance"]).clip(lower=0),
        "arrayminus": (table["importance"] - table["low"]).clip(lower=0),
        "color": "#555",
        "thickness": 1.2,
    }
    figure = go.Figure(
        go.Bar(
            x=table["importance"],
            y=table["setting"],
            orientation="h",
            marker_color=COLOURS[0],
            error_x=spread,
            hovertemplate="%{y}: %{x:.2f}<extra></extra>",
        )
    )
    figure.update_xaxes(title_text="share of the differences between trials", range=[0, 1])
    figure.update_yaxes(automargin=True)
    return _plain(figure, 120 + 34 * len(table))


def looks(domains: Sequence[str], classes: Sequence[str]) -> dict[str, Look]:
    """How groups are drawn: a colour for each class, grey without one, and another dash and symbol for each domain."""
    made = {}
    for domain, dash, symbol in zip(domains, DASHES, MARKS, strict=False):
        for name, colour in (*zip(classes, cycle(COLOURS), strict=False), ("", GREY)):
            made[f"{domain} {name}".strip()] = Look(colour, dash, symbol)
    return made


def histograms(
    panels: Mapping[str, Mapping[str, np.ndarray]],
    looks: Mapping[str, Look] | None = None,
    what: str = "probability",
) -> go.Figure:
    """Scores (N,) by panel and group: percent of each group in each of 25 bins, on a logarithmic axis from LEAST on."""
    figure = make_subplots(
        rows=len(panels), cols=1, shared_xaxes=True, subplot_titles=[*panels], vertical_spacing=0.14
    )
    edges = np.linspace(0, 1, 26)
    middles = (edges[1:] + edges[:-1]) / 2
    for row, groups in enumerate(panels.values(), 1):
        for name, scores in groups.items():
            look = (looks or {}).get(name, Look())
            counts = np.histogram(scores, edges)[0]
            figure.add_scatter(
                x=middles,
                y=np.maximum(LEAST, 100 * counts / max(1, len(scores))),
                mode="lines",
                line={"shape": "hvh", "color": look.colour, "dash": look.dash, "width": 2},
                name=f"{name} ({len(scores)})",
                legendgroup=name,
                showlegend=row == 1,
                customdata=counts,
                hovertemplate=f"{name}: %{{customdata}} images, %{{y:.2g}} %<extra></extra>",
                row=row,
                col=1,
            )
        figure.update_yaxes(
            type="log", dtick=1, range=[np.log10(LEAST), 2], title_text="% of the group", row=row, col=1
        )
    figure.update_xaxes(title_text=what, row=len(panels), col=1)
    figure.update_layout(legend={"orientation": "h", "y": -0.18})
    return _plain(figure, 150 + 250 * len(panels))


def spots(domains: Sequence[str], classes: Sequence[str]) -> dict[str, Look]:
    """How groups lie in an embedding: a colour for each domain, another symbol for each class.

    Whether domains overlap is the question there, and colours are told apart sooner than symbols. The last class is
    filled; of a domain without labels all are rings. Where there is one domain, classes have the colours.
    """
    if len(domains) < 2:
        return looks(domains, classes)
    made = {}
    for domain, colour in zip(domains, DOMAINS, strict=False):
        filled = dict.fromkeys(classes[-1:], "circle")
        symbols = dict(zip(classes, cycle(OPEN), strict=False)) | filled | {"": OPEN[0]}
        for name, symbol in symbols.items():
            made[f"{domain} {name}".strip()] = Look(colour, DASHES[0], symbol)
    return made


def scatter(
    points: np.ndarray,
    names: Sequence[str],
    words: Sequence[str],
    looks: Mapping[str, Look] | None = None,
    title: str = "",
) -> go.Figure:
    """Points (N, 2), drawn by group (N,), each with words (N,)."""
    figure = go.Figure()
    names, words = np.asarray(names), np.asarray(words)
    for group in [one for one in (looks or {}) if one in names] or dict.fromkeys(names.tolist()):
        here, look = names == group, (looks or {}).get(group, Look())
        figure.add_scatter(
            x=points[here, 0],
            y=points[here, 1],
            mode="markers",
            name=group,
            marker={"size": 5, "opacity": 0.7, "color": look.colour, "symbol": look.symbol},
            text=words[here],
            hovertemplate="%{text}<extra></extra>",
        )
    figure.update_xaxes(showticklabels=False, showgrid=False, zeroline=False)
    figure.update_yaxes(showticklabels=False, showgrid=False, zeroline=False)
    figure.update_layout(legend={"orientation": "h", "y": -0.04, "itemsizing": "constant"})
    figure = _plain(figure, 440)
    return figure.update_layout(title=_headline(title), margin={"l": 16, "b": 30, "t": 44 if title else 16})


def _headline(words: str) -> dict[str, Any]:
    return {"text": words, "x": 0.5, "xanchor": "center", "y": 0.97, "font": {"size": 15}}


def _plain(figure: go.Figure, height: int) -> go.Figure:
    return figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 60, "r": 16, "t": 60, "b": 50},
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#1c2430"},
    )


def _told(trial: Trial) -> str:
    """A trial's name, state and settings, for a small window."""
    lines = [trial.name, trial.state]
    for path, value in trial.settings.items():
        lines.append(f"{path} {value:.3g}" if isinstance(value, float) else f"{path} {value}")
    return "<br>".join(lines)


def _numbers(trials: Sequence[Trial]) -> list[str]:
    """Names of what was reported as numbers by raylens, and differs at all."""
    names = dict.fromkeys(
        name for trial in trials for name in trial.reports if "/" in name or name == "objective"
    )
    return [
        name
        for name in names
        if not name.startswith(("config/", "time/"))
        and any(
            name in trial.reports and pd.api.types.is_numeric_dtype(trial.reports[name]) for trial in trials
        )
    ]


def ended(trials: Sequence[Trial], metric: str = "objective") -> list[tuple[Trial, float]]:
    """Trials with what they came to at their last report; those that diverged are left out."""
    held = []
    for trial in trials:
        values = trial.reports[metric].dropna() if metric in trial.reports else pd.Series(dtype=float)
        if len(values) and trial.settings and values.iloc[-1] > WORST:
            held.append((trial, float(values.iloc[-1])))
    return held


def _importance(
    held: Sequence[tuple[Trial, float]], space: Mapping[str, Range], metric: str
) -> dict[str, float]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    known = {path: _distribution(span) for path, span in space.items()}
    for trial, score in held:
        settings = {path: _within(trial.settings[path], span) for path, span in space.items()}
        study.add_trial(
            optuna.trial.create_trial(
                params=settings,
                distributions=known,
                value=score,
                state=optuna.trial.TrialState.COMPLETE,
            )
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=32, seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=[*space])
    return {path: float(found.get(path, 0.0)) for path in space}


def _distribution(span: Range) -> Any:
    if isinstance(span, Choice):
        return optuna.distributions.CategoricalDistribution(span.values)
    return optuna.distributions.FloatDistribution(span.low, span.high, log=isinstance(span, LogUniform))


def _within(value: Any, span: Range) -> Any:
    return value if isinstance(span, Choice) else min(max(float(value), span.low), span.high)
