"""What the documentation counts is what is injected."""

from __future__ import annotations

import re
from collections import Counter

from faults import BORNE, FAULTS
from world import ROOT


def test_documentation_counts_what_is_injected() -> None:
    text = (
        (ROOT / "docs/roles/backup.md").read_text(encoding="utf-8").partition("\n## Faults\n")[2].partition("\n## ")[0]
    )
    table = {
        row[0]: (int(row[1]), int(row[2])) for row in re.findall(r"^\| ([a-z]+) \|.*\| (\d+) \| (\d+) \|$", text, re.M)
    }
    injected = Counter(fault.kind for fault in FAULTS)
    assert table == {kind: (number, number) for kind, number in injected.items()}
    names = [(fault.kind, fault.name) for fault in FAULTS]
    assert len(set(names)) == len(names)
    borne = sum(fault.outcome == BORNE for fault in FAULTS)
    assert f"{len(FAULTS)} faults are injected, {len(FAULTS)} are detected or borne ({borne})" in text.replace(
        "\n", " "
    )
