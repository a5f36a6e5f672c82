#!/usr/bin/env python
"""Runs the tests part by part, and the demo step by step; says what each part took.

Two parts run at once, each time the first in order whose needs have ended: the testbed and the scenarios, with lint, static
checks, sanity and unit tests beside them. A part that fails does not stop the others. The last line is
`N passed, N failed`: parts are the tests.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import parts, runner


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    verbs = parser.add_subparsers(dest="verb", required=True)
    test = verbs.add_parser("test", help="lint, static checks, sanity, unit tests and scenarios")
    test.add_argument("--scenario", help="just this Molecule scenario, and the testbed")
    test.add_argument(
        "--part", help="just this part: lint, static, sanity, unit, newest, contract, backup-faults or audit-faults"
    )
    test.add_argument("--long", action="store_true", help="just the scenarios named long_*")
    verbs.add_parser("demo", help="testbed, a host, the day-one playbook")
    verbs.add_parser("demo-down", help="remove the host and the testbed")
    args = parser.parse_args()
    if args.verb == "demo":
        return runner.steps("demo", parts.demo())
    if args.verb == "demo-down":
        return runner.steps("demo-down", parts.demo_down())
    try:
        chosen = parts.choose(scenario=args.scenario, part=args.part, long=args.long)
    except parts.Unknown as exc:
        print(f"tests: {exc}", file=sys.stderr)
        print("0 passed, 1 failed")
        return 2
    return runner.run(chosen)


if __name__ == "__main__":
    sys.exit(main())
