"""The tables of docs/performance.md and docs/sizing.md, in Markdown, out of the benchmark's JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

Json = dict[str, Any]

MISSING = "–"
# A load average above this before a run says that something else was running.
QUIET = 1.0


def of(stack: Json, growth: Json, *, day: Callable[[int], str]) -> dict[str, str]:
    """Each table by the name that stands in its mark. What a run did not measure gives a table without lines."""
    cases = {case["name"]: case for case in stack["cases"]}
    grown = {one["name"]: one for one in growth["growth"]}
    tables = {
        "run": _run(stack, day),
        "growth-run": _run(growth, day),
        "targets": _targets(stack["targets"]),
        "headroom": _table(["case", "times"], [[one["case"], f"{one['times']:.1f}"] for one in stack["headroom"]]),
        "memory": _memory(stack["memory"]),
        "turns": _turns(cases.get("chain-latency")),
        "one-core": _one_core(cases),
    }
    for name in ("json", "sse", "sse-long", "chain"):
        tables[name] = _costs(cases.get(name))
    for name in ("paced", "paced-in-step", "paced-silent"):
        tables[name] = _delays(cases.get(name))
    for name in ("history", "bodies", "streams", "routers", "router-turns"):
        tables[name] = _growth(grown.get(name))
    tables["beside"] = _beside(grown.get("beside"))
    return tables


def number(value: float | None, digits: int) -> str:
    return MISSING if value is None else f"{value:,.{digits}f}"


def median(rounds: Json | None, digits: int) -> str:
    return number(rounds["median"] if rounds else None, digits)


def mib(kib: float) -> str:
    return f"{kib / 1024:.1f}" if kib else MISSING


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column to the left, the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _run(run: Json, day: Callable[[int], str]) -> str:
    machine = run["machine"]
    rows = [
        ["day", day(machine["began"])],
        ["cores", f"{machine['cores']} × {machine['cpu']}"],
        ["kernel", machine["kernel"]],
        ["memory", f"{machine['memory_kib'] / 1024 / 1024:.0f} GiB"],
        ["load average before the run", " ".join(f"{load:.2f}" for load in machine["load_average"])],
        ["router", f"{machine['router']}, {machine['commit'] or 'of no commit'}"],
        ["compiler", machine["rustc"]],
        ["Envoy", machine["envoy"]],
        ["Redis", machine["redis"]],
        ["rounds", str(run["args"]["rounds"])],
    ]
    table = "".join(f"| {' | '.join(line)} |\n" for line in [["what", "this run"], ["---", "---"], *rows])
    if machine["load_average"][0] > QUIET:
        table += "\n**The machine was busy with something else: these figures, ratios included, are worth little.**\n"
    return table


def _targets(targets: Sequence[Json]) -> str:
    words = {True: "reached", False: "**not reached**", None: "not measured"}
    rows = [
        [
            one["work"],
            one["measure"],
            f"≤ {one['at_most']:g}",
            number(one["measured"], 2),
            " to ".join(number(bound, 2) for bound in one["interval"] or []),
            words[one["reached"]],
        ]
        for one in targets
    ]
    return _table(["work", "measure", "target", "measured", "95% of medians", ""], rows)


def _costs(case: Json | None) -> str:
    head = ["row", "Envoy", "router", "Redis", "whole", "whole ×", "router ×", "per s", "p50 ms", "p99 ms", "RSS MiB"]
    return _table([*head, "client and backend"], [_cost(row) for row in case["rows"]] if case else [])


def _cost(row: Json) -> list[str]:
    spent, kib = row["cpu_s_per_1000"], row["resident_kib"]
    return [
        row["title"],
        *(median(spent[part], 3) for part in ("envoy", "router", "redis", "whole")),
        median(row["whole_ratio"], 2),
        median(row["router_ratio"], 2),
        median(row["per_second"], 0),
        median(row["p50_ms"], 2),
        median(row["p99_ms"], 2),
        " / ".join(mib(kib[part]) for part in ("envoy", "processor", "redis")),
        median(spent["client_and_backend"], 3),
    ]


def _delays(case: Json | None) -> str:
    head = ["row", "event p50 µs", "event p99 µs", "first event ms", "began before the first token", "whole CPU"]
    rows = [
        [
            row["title"],
            median(row["event_p50_us"], 0),
            median(row["event_p99_us"], 0),
            median(row["first_event_ms"], 1),
            f"{row['began_before_first_token']['median']:.0%}" if row["began_before_first_token"] else MISSING,
            median(row["cpu_s_per_1000"]["whole"], 3),
        ]
        for row in (case["rows"] if case else [])
    ]
    return _table(head, rows)


def _turns(case: Json | None) -> str:
    shown = (1, 10, 25, 50)
    rows = []
    for row in case["rows"] if case else []:
        turns = row.get("turn_p50_us", [])
        at = [turns[turn - 1] / 1000 if turn <= len(turns) else None for turn in shown]
        rows.append([row["title"], *(number(value, 2) for value in at), number(row["growth_us_per_turn"], 1)])
    return _table(["row", *(f"turn {turn}, ms" for turn in shown), "growth, µs per turn"], rows)


def _memory(memory: Sequence[Json]) -> str:
    head = ["row", "idle MiB", "live streams", "live MiB", "after MiB", "KiB per stream", "without its text"]
    rows = [
        [
            row["title"],
            mib(row["idle_kib"]["processor"]),
            f"{row['live_streams']:,}",
            mib(row["live_kib"]["processor"]),
            mib(row["after_kib"]["processor"]),
            number(row["kib_per_stream"], 1),
            number(row["kib_per_stream_without_text"], 1),
        ]
        for row in memory
    ]
    return _table(head, rows)


def _growth(growth: Json | None) -> str:
    if growth is None:
        return _table(["at"], [])
    head = [growth["along"], "row", "Envoy", "router", "Redis", "whole", "whole ×", "per s", "p50 ms", "event p50 µs"]
    rows = []
    for point in growth["points"]:
        for row in point["case"]["rows"]:
            cells = _cost(row)
            kib = row["resident_kib"]
            rows.append(
                [f"{point['at']:,}", *cells[:6], cells[7], cells[8], median(row["event_p50_us"], 0), mib(kib["processor"])]
            )
    return _table([*head, "router RSS MiB"], rows)


def _beside(growth: Json | None) -> str:
    head = ["bytes of a request", "row", "event p50 µs", "event p99 µs"]
    rows = [
        [f"{point['at']:,}", row["title"], median(row["event_p50_us"], 0), median(row["event_p99_us"], 0)]
        for point in (growth["points"] if growth else [])
        for row in point["case"]["rows"]
    ]
    return _table(head, rows)


def _one_core(cases: dict[str, Json]) -> str:
    """How much of each work a whole core of the router alone, and of Envoy alone, would do."""
    words = {"json": "JSON requests", "sse": "streams of 100 chunks", "sse-long": "streams of 1,000 chunks", "chain": "turns"}
    rows = []
    for name, work in words.items():
        for row in cases[name]["rows"] if name in cases else []:
            if row["row"] in ("memory", "redis", "cluster"):
                spent = row["cpu_s_per_1000"]
                per_core = [1000 / spent[part]["median"] if spent[part] else None for part in ("router", "envoy", "redis")]
                rows.append([work, row["title"], *(number(value, 0) for value in per_core)])
    return _table(["work, per second", "row", "a core of the router", "a core of Envoy", "a core of Redis"], rows)
