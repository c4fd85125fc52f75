#!/usr/bin/env python3
"""Draws what the benchmark measured, and writes its tables into the documents.

`make bench` and `make bench-growth` write JSON; this reads docs/performance/stack.json and growth.json, makes the SVGs beside
them, and replaces what stands between `<!-- bench:NAME -->` and `<!-- /bench -->` in the documents. So no figure is typed.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bench_tables

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "performance"
DOCUMENTS = [ROOT / "docs" / "performance.md", ROOT / "docs" / "sizing.md"]
_MARKED = re.compile(r"(?P<begin><!-- bench:(?P<name>[a-z0-9-]+) -->\n).*?(?P<end><!-- /bench -->)", re.DOTALL)

# One colour for a row in every picture, told apart without colour as well by the marker.
LOOKS = {
    "direct": ("#999999", "."),
    "envoy": ("#56b4e9", "v"),
    "noop": ("#000000", "s"),
    "memory": ("#009e73", "o"),
    "disk": ("#cc79a7", "D"),
    "redis": ("#e69f00", "^"),
    "cluster": ("#d55e00", "P"),
}

Json = dict[str, Any]
Value = Callable[[Json], float | None]


def median(rounds: Json | None) -> float | None:
    return rounds["median"] if rounds else None


def whole(row: Json) -> float | None:
    return median(row["cpu_s_per_1000"]["whole"])


def router(row: Json) -> float | None:
    return median(row["cpu_s_per_1000"]["router"])


def latency(row: Json) -> float | None:
    return median(row["p50_ms"])


def resident(row: Json) -> float | None:
    return row["resident_kib"]["processor"] / 1024 or None


def event_delay(row: Json) -> float | None:
    return median(row["event_p50_us"])


def short(number: int) -> str:
    """As people write it: 2,000 stays, 20,000,000 becomes 20 M."""
    for unit, name in ((1_000_000, " M"), (10_000, " k")):
        if number >= unit:
            return f"{number / (1000 if name == ' k' else unit):g}{name}"
    return f"{number:,}"


def fill(document: str, tables: Json) -> str:
    """The document with each marked table written anew; a mark that no table has is an error, an empty table is not."""

    def table(mark: re.Match[str]) -> str:
        if mark["name"] not in tables:
            raise ValueError(f"no table is named {mark['name']}: {', '.join(sorted(tables))}")
        return mark["begin"] + tables[mark["name"]] + mark["end"]

    return _MARKED.sub(table, document)


class Plots:
    """The pictures of one run."""

    def __init__(self, folder: Path, png: Path | None) -> None:
        import matplotlib

        matplotlib.use("svg")
        # The same JSON gives the same bytes: no random ids.
        matplotlib.rcParams.update({"svg.hashsalt": "bench", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3})
        from matplotlib import pyplot

        self.pyplot, self.folder, self.png = pyplot, folder, png

    def save(self, figure: Any, name: str) -> None:
        figure.savefig(self.folder / f"{name}.svg", metadata={"Date": None})
        if self.png:
            figure.savefig(self.png / f"{name}.png", dpi=110)
        self.pyplot.close(figure)

    def curves(self, growth: Json, name: str, across: str, panels: list[tuple[str, Value]], scales: str) -> None:
        """A panel for each value, a line for each row. `scales` names the axes that are logarithmic."""
        figure, axes = self.pyplot.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.4), layout="constrained")
        handles: dict[str, Any] = {}
        for axis, (label, value) in zip(axes if len(panels) > 1 else [axes], panels, strict=True):
            for kind, (colour, marker) in LOOKS.items():
                points = [
                    (point["at"], number)
                    for point in growth["points"]
                    for row in point["case"]["rows"]
                    if row["row"] == kind and (number := value(row)) is not None
                ]
                if not points:
                    continue
                title = next(r["title"] for p in growth["points"] for r in p["case"]["rows"] if r["row"] == kind)
                (handles[title],) = axis.plot(*zip(*points, strict=True), color=colour, marker=marker, label=title)
            axis.set(xlabel=across, ylabel=label)
            places = [point["at"] for point in growth["points"]]
            if "x" in scales:
                axis.set_xscale("log")
            # The sizes that were measured, and not what a logarithmic axis would write.
            axis.set_xticks(places, [short(place) for place in places])
            axis.minorticks_off()
            if "y" in scales:
                axis.set_yscale("log")
                axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            else:
                axis.set_ylim(bottom=0)
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), frameon=False)
        self.save(figure, name)

    def costs(self, cases: list[Json]) -> None:
        """CPU of each row, stacked by process, a panel for each case."""
        shown = [case for case in cases if case["name"] in ("json", "sse", "chain")]
        if not shown:
            return
        figure, axes = self.pyplot.subplots(1, len(shown), figsize=(4.2 * len(shown), 3.6), layout="constrained")
        parts = {"envoy": ("Envoy", "#56b4e9"), "router": ("router or noop", "#009e73"), "redis": ("Redis", "#e69f00")}
        handles: dict[str, Any] = {}
        for axis, case in zip(axes if len(shown) > 1 else [axes], shown, strict=True):
            rows = [row for row in case["rows"] if row["row"] != "direct"]
            under = [0.0] * len(rows)
            for part, (title, colour) in parts.items():
                heights = [median(row["cpu_s_per_1000"][part]) or 0.0 for row in rows]
                handles[title] = axis.bar([row["title"] for row in rows], heights, bottom=under, color=colour, width=0.7)
                under = [low + height for low, height in zip(under, heights, strict=True)]
            axis.set_ylim(top=1.08 * max(under))
            axis.set_title({"json": "JSON", "sse": "SSE, 100 chunks", "chain": "chains of 50 turns"}[case["name"]])
            axis.set_ylabel(f"CPU, seconds per 1000 {case['unit']}")
            axis.tick_params(axis="x", rotation=40)
            for label in axis.get_xticklabels():
                label.set_horizontalalignment("right")
            axis.grid(visible=False, axis="x")
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), frameon=False)
        self.save(figure, "cost")

    def turns(self, cases: list[Json]) -> None:
        """Latency by turn."""
        chain = next((case for case in cases if case["name"] == "chain-latency"), None)
        if chain is None:
            return
        figure, axis = self.pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
        for row in chain["rows"]:
            if row.get("turn_p50_us"):
                turns = range(1, len(row["turn_p50_us"]) + 1)
                colour, marker = LOOKS[row["row"]]
                milliseconds = [value / 1000 for value in row["turn_p50_us"]]
                axis.plot(turns, milliseconds, color=colour, marker=marker, markersize=3, linewidth=1, label=row["title"])
        axis.set(xlabel="turn of the conversation", ylabel="p50 latency, milliseconds")
        axis.set_ylim(bottom=0)
        figure.legend(loc="outside right upper", frameon=False)
        self.save(figure, "turns")


def draw(stack: Json, growth: Json, folder: Path, png: Path | None) -> None:
    plots = Plots(folder, png)
    plots.costs(stack.get("cases", []))
    plots.turns(stack.get("cases", []))
    grown = {one["name"]: one for one in growth.get("growth", [])}
    # Of Envoy, router and Redis together, as the text beside the picture says.
    cpu = "CPU, seconds per 1000 "
    pictures: dict[str, tuple[str, list[tuple[str, Value]], str]] = {
        "history": ("turn of the conversation", [(cpu + "turns", whole), ("p50 latency, milliseconds", latency)], ""),
        "bodies": ("request body, bytes", [(cpu + "requests", whole), ("p50 latency, milliseconds", latency)], "xy"),
        "streams": (
            "live streams",
            [(cpu + "chunks", whole), ("p50 event delay, microseconds", event_delay), ("RSS of router or noop, MiB", resident)],
            "x",
        ),
        "routers": (
            "routers on one cluster",
            [(cpu + "requests", whole), ("requests per second", lambda row: median(row["per_second"]))],
            "",
        ),
    }
    for name, (across, panels, scales) in pictures.items():
        if name in grown:
            plots.curves(grown[name], name, across, panels, scales)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where stack.json and growth.json are and the SVGs go")
    parser.add_argument("--documents", type=Path, nargs="*", default=DOCUMENTS, help="where tables are written")
    parser.add_argument("--png", type=Path, help="also write PNGs into this folder, to look at")
    options = parser.parse_args()
    runs: list[Json] = []
    for name, command in (("stack", "bench"), ("growth", "bench-growth")):
        file = options.folder / f"{name}.json"
        if not file.exists():
            flags = f"BENCH_FLAGS='--json {file}'"
            print(f"{file} is not there; make {command} {flags} writes it", file=sys.stderr)
            return 1
        runs.append(json.loads(file.read_text()))
    stack, growth = runs
    draw(stack, growth, options.folder, options.png)
    tables = bench_tables.of(stack, growth, day=lambda began: datetime.fromtimestamp(began, UTC).strftime("%Y-%m-%d"))
    for document in options.documents:
        document.write_text(fill(document.read_text(), tables))
    return 0


if __name__ == "__main__":
    sys.exit(main())
