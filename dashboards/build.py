"""Writes the Grafana dashboard of the gauges in raylens/cluster/gauges.py: `uv run python dashboards/build.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    GraphDrawStyle,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import DataSourceRef, GridPos, VariableHide, VariableRefresh

from raylens.cluster.gauges import SHOWN

OUT = Path(__file__).parent / "raylens.json"
DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH, HEIGHT = 8, 8
"""Of a panel, in Grafana's grid of 24 columns."""


@dataclass(frozen=True)
class Panel:
    title: str
    gauge: str
    over: str = "max by (method, trial)"
    legend: str = "{{trial}}"
    unit: str = "short"
    most: float | None = None
    stacked: bool = False

    def expression(self) -> str:
        labels = {"SessionName": "$SessionName", "method": "$method"}
        kept = ", ".join(f'{name}=~"{value}"' for name, value in labels.items())
        return f"{self.over} (ray_{self.gauge}{{{kept}}})"

    def build(self, place: GridPos, number: int) -> timeseries.Panel:
        panel = (
            timeseries.Panel()
            .id(number)
            .title(self.title)
            .description(f"{SHOWN[self.gauge].meaning}.")
            .datasource(DATASOURCE)
            .grid_pos(place)
            .unit(self.unit)
            .show_points(VisibilityMode.AUTO)
            .legend(
                common.VizLegendOptions()
                .display_mode(LegendDisplayMode.LIST)
                .placement(LegendPlacement.BOTTOM)
                .show_legend(True)
            )
            .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
            .with_target(
                prometheus.Dataquery()
                .expr(self.expression())
                .legend_format(self.legend)
                .datasource(DATASOURCE)
                .ref_id("A")
            )
        )
        if self.most is not None:
            panel = panel.min(0).max(self.most)
        if self.stacked:
            stack = common.StackingConfig().mode(StackingMode.NORMAL)
            panel = panel.draw_style(GraphDrawStyle.BARS).fill_opacity(80).stacking(stack).min(0)
        return panel


ROWS = {
    "Searches": (
        Panel("Best objective", "raylens_best_objective", "max by (method, run)", "{{run}}"),
        Panel("Trials by state", "raylens_trials", "sum by (state)", "{{state}}", stacked=True),
        Panel("Trials that warned", "raylens_warned_trials", "max by (method, run)", "{{run}}"),
    ),
    "Trials": (
        Panel("Objective", "raylens_objective"),
        Panel("Source AUROC", "raylens_source_auroc", unit="none", most=1),
        Panel("Steps", "raylens_step"),
    ),
    "Health": (
        Panel("Discriminator accuracy", "raylens_discriminator_accuracy", unit="percentunit", most=1),
        Panel("Target images learned from", "raylens_kept_share", unit="percentunit", most=1),
        Panel("Seconds of a checkpoint", "raylens_checkpoint_seconds", unit="s"),
    ),
    "Speed": (
        Panel("Images a second", "raylens_images_per_second", "sum by (method, trial)"),
        Panel("Seconds of a step", "raylens_step_seconds", unit="s"),
        Panel("Share of a step that waits for images", "raylens_wait_share", unit="percentunit", most=1),
    ),
}


def variable(name: str, label: str) -> dashboard.QueryVariable:
    """A choice among the values that a label has."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query(f"label_values(ray_raylens_step, {name})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .include_all(True)
        .all_value(".*")
        .multi(True)
    )


def build() -> str:
    """The dashboard as JSON."""
    made = (
        dashboard.Dashboard("raylens")
        .uid("raylens")
        .tags(["ray", "raylens"])
        .refresh("10s")
        .time("now-1h", "now")
        .with_variable(
            dashboard.DatasourceVariable("datasource").type("prometheus").hide(VariableHide.HIDE_VARIABLE)
        )
        .with_variable(variable("SessionName", "Ray"))
        .with_variable(variable("method", "Method"))
    )
    top, number = 0, 1
    for title, panels in ROWS.items():
        made = made.with_row(dashboard.Row(title).id(number).grid_pos(GridPos(h=1, w=24, x=0, y=top)))
        for place, panel in enumerate(panels):
            at = GridPos(h=HEIGHT, w=WIDTH, x=place * WIDTH, y=top + 1)
            made = made.with_panel(panel.build(at, number + 1 + place))
        top, number = top + 1 + HEIGHT, number + 1 + len(panels)
    return JSONEncoder(sort_keys=True, indent=1).encode(made.build()) + "\n"


if __name__ == "__main__":
    OUT.write_text(build())
    print(OUT)
