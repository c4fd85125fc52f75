"""Instructions per piece of work of benches/core, counted by valgrind: what a busy machine cannot change.

    python3 scripts/instructions.py BINARY [CASE…]

Each case runs twice, the second time with twice the work; the difference is the work alone. Prints a table, then JSON.
"""

import json
import re
import subprocess
import sys

TIMES = 20


def collected(binary: str, case: str, times: int) -> int:
    """Instructions of a whole run."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", binary, "--run", case, str(times)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"Collected : (\d+)", result.stderr)
    if result.returncode != 0 or not found:
        sys.exit(f"instructions: {case} failed under valgrind:\n{result.stderr[-2000:]}")
    return int(found.group(1))


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    binary, *cases = sys.argv[1:]
    if not cases:
        listed = subprocess.run([binary, "--list-cases"], capture_output=True, text=True, check=True)
        cases = listed.stdout.split()
    counts = {}
    for case in cases:
        once, twice = (collected(binary, case, times) for times in (TIMES, 2 * TIMES))
        counts[case] = round((twice - once) / TIMES)
        print(f"{case:<20}{counts[case]:>14,}", flush=True)
    print(json.dumps({"instructions": counts}))


if __name__ == "__main__":
    main()
