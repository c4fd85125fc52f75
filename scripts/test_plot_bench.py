"""Tests of what writes the benchmark's results into the documents. Run by `make test`, without what draws."""

from __future__ import annotations

import re
import unittest
from typing import Any

import bench_tables
import plot_bench


def median(value: float) -> dict[str, Any]:
    return {"median": value, "rounds": [value]}


def row(kind: str, title: str) -> dict[str, Any]:
    has_redis = kind == "cluster"
    spent = {"envoy": median(0.25), "router": median(0.5), "redis": median(0.125) if has_redis else None}
    return {
        "row": kind,
        "title": title,
        "cpu_s_per_1000": {**spent, "whole": median(0.875), "client_and_backend": median(0.1)},
        "whole_ratio": median(1.75),
        "router_ratio": median(2.0),
        "per_second": median(1234.5),
        "p50_ms": median(7.0),
        "p99_ms": median(9.0),
        "event_p50_us": None,
        "event_p99_us": None,
        "first_event_ms": None,
        "began_before_first_token": None,
        "resident_kib": {"envoy": 10240, "processor": 5120, "redis": 2048 if has_redis else 0},
        "growth_us_per_turn": 12.5,
    }


RUN: dict[str, Any] = {
    "machine": {
        "began": 0,
        "cores": 2,
        "cpu": "a processor",
        "kernel": "6.1",
        "memory_kib": 4194304,
        "load_average": [0.1, 0.2, 0.3],
        "commit": None,
        "rustc": "rustc 1.90",
        "router": "0.1.0",
        "envoy": "1.40",
        "redis": "7.0",
    },
    "args": {"rounds": 5},
    "memory": [],
    "cases": [{"name": "json", "unit": "requests", "rows": [row("cluster", "router, cluster"), row("noop", "noop")]}],
    "growth": [],
    "headroom": [{"case": "json", "times": 4.25}],
    "targets": [
        {"work": "JSON", "measure": "ratio", "at_most": 1.5, "measured": 1.75, "interval": [1.625, 2.0], "reached": False},
        {"work": "SSE", "measure": "ratio", "at_most": 2.0, "measured": None, "interval": None, "reached": None},
    ],
}


class Tables(unittest.TestCase):
    tables = bench_tables.of(RUN, RUN, day=lambda began: f"day {began}")

    def test_every_line_of_a_table_has_the_cells_of_its_head(self) -> None:
        for name, table in self.tables.items():
            counts = {line.count("|") for line in table.splitlines()}
            self.assertEqual(len(counts), 1, f"{name}:\n{table}")

    def test_a_row_shows_its_medians_and_what_it_does_not_have_as_a_dash(self) -> None:
        cluster, noop = self.tables["json"].splitlines()[2:]
        self.assertEqual(
            cluster,
            "| router, cluster | 0.250 | 0.500 | 0.125 | 0.875 | 1.75 | 2.00 | 1,234 | 7.00 | 9.00 | 10.0 / 5.0 / 2.0 | 0.100 |",
        )
        self.assertIn("| 0.500 | – | 0.875 |", noop)

    def test_a_core_serves_what_its_cpu_per_request_leaves(self) -> None:
        self.assertIn("| JSON requests | router, cluster | 2,000 | 4,000 | 8,000 |", self.tables["one-core"])

    def test_targets_say_what_was_missed_and_what_was_not_measured(self) -> None:
        self.assertIn("| JSON | ratio | ≤ 1.5 | 1.75 | 1.62 to 2.00 | **not reached** |", self.tables["targets"])
        self.assertIn("| SSE | ratio | ≤ 2 | – |  | not measured |", self.tables["targets"])


    def test_a_busy_machine_is_named(self) -> None:
        busy = RUN | {"machine": RUN["machine"] | {"load_average": [4.0, 2.0, 1.0]}}
        table = bench_tables.of(busy, RUN, day=str)["run"]
        self.assertIn("The machine was busy", table)
        self.assertNotIn("The machine was busy", self.tables["run"])


class Documents(unittest.TestCase):
    def test_a_marked_table_is_replaced_and_nothing_else(self) -> None:
        document = "before\n<!-- bench:a -->\nold\n<!-- /bench -->\nbetween\n<!-- bench:b -->\n<!-- /bench -->\n"
        filled = plot_bench.fill(document, {"a": "| new |\n", "b": "| b |\n"})
        self.assertEqual(
            filled,
            "before\n<!-- bench:a -->\n| new |\n<!-- /bench -->\nbetween\n<!-- bench:b -->\n| b |\n<!-- /bench -->\n",
        )
        self.assertEqual(plot_bench.fill(filled, {"a": "| new |\n", "b": "| b |\n"}), filled)

    def test_a_mark_that_no_table_has_is_refused(self) -> None:
        with self.assertRaises(ValueError):
            plot_bench.fill("<!-- bench:typo -->\n<!-- /bench -->", {})

    def test_the_documents_name_tables_that_there_are(self) -> None:
        tables = bench_tables.of(RUN, RUN, day=str)
        for document in plot_bench.DOCUMENTS:
            names = re.findall(r"<!-- bench:(\S+) -->", document.read_text())
            self.assertEqual([name for name in names if name not in tables], [], document)
            self.assertEqual(plot_bench.fill(document.read_text(), tables).count("<!-- /bench -->"), len(names))


if __name__ == "__main__":
    unittest.main()
