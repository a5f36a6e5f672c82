"""The nights in which 03:17 is skipped or doubled, lived through by Debian's own cron and systemd, with the lines that this library writes.

In `make test-long`: a night takes two minutes, at sixty times its speed (libfaketime; what cron starts has the machine's own time again).
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from pathlib import Path

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import schedule
from ansible_collections.scutum.ops.plugins.module_utils.engine import Result
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation

ZONE, SPEED = "Europe/Helsinki", 60
SCRIPT = """
set -eu
export DEBIAN_FRONTEND=noninteractive
mkdir -p /etc/cron.d
cat > /etc/cron.d/scutum-ops-backup
apt-get update -qq && apt-get install -y -qq --no-install-recommends faketime cron bsdutils
ln -sf /usr/share/zoneinfo/{zone} /etc/localtime
echo {zone} > /etc/timezone
printf '#!/bin/sh\\ndate +%%s >> /tmp/ran\\n' > /usr/local/sbin/scutum-ops
chmod 755 /usr/local/sbin/scutum-ops
echo "began $(date +%s)"
LD_PRELOAD=$(ls /usr/lib/*/faketime/libfaketime.so.1) FAKETIME="@{begin} x{speed}" DONT_FAKE_MONOTONIC=1 timeout 125 cron -f || true
sed 's/^/ran /' /tmp/ran
"""


@pytest.fixture(name="image")
def fixture_image() -> str:
    """A bare host of the testbed."""
    listed = ["docker", "image", "ls", "--filter", "reference=scutum-testbed/host-noengine", "--format", "{{.ID}}"]
    found = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split()
    assert found, "the testbed's images are missing: make demo builds them"
    return found[0]


def written(folder: Path, monkeypatch: pytest.MonkeyPatch, scheduler: str, calendar: str) -> dict[str, str]:
    """The files of the job, by name."""
    for name in ("CRON", "UNITS"):
        monkeypatch.setattr(schedule, name, str(folder))
    monkeypatch.setattr(
        schedule, "run", lambda *unused, **more: Result(0, "UnitFileState=enabled\nActiveState=active", "")
    )
    installation = Installation(str(folder / "scutum"))
    job = schedule.Job("backup", "a backup", ["backup"], calendar, delay=0, scheduler=scheduler)
    with contextlib.suppress(FileNotFoundError):
        schedule.ensure(installation, job, "/usr/local/sbin/scutum-ops")
    return {path.name: path.read_text() for path in folder.glob("scutum-ops-*")}


def test_a_daily_timer_is_due_after_26_hours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd itself skips the night, so the timer has a second reason."""
    text = written(tmp_path, monkeypatch, "timer", "*-*-* 03:17:00")["scutum-ops-backup.timer"]
    assert "OnCalendar=*-*-* 03:17:00\nOnUnitInactiveSec=93600\n" in text
    weekly = written(tmp_path, monkeypatch, "timer", "Sun 04:40")["scutum-ops-backup.timer"]
    assert "OnUnitInactiveSec" not in weekly


def test_systemd_skips_the_night(image: str) -> None:
    words = [
        "docker",
        "run",
        "--rm",
        "--network",
        "none",
        "-e",
        f"TZ={ZONE}",
        "--entrypoint",
        "systemd-analyze",
        image,
        "calendar",
    ]
    asked = [*words, "--base-time=2026-03-28 12:00", "--iterations=1", "*-*-* 03:17:00"]
    said = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    assert "2026-03-30 03:17" in said, "it makes up for the night now: OnUnitInactiveSec is not needed any more"


if os.environ.get("SCUTUM_ALL_STEPS"):

    @pytest.mark.parametrize(
        ("begin", "minutes"), [("2026-03-29 02:30:00", 30), ("2026-10-25 02:30:00", 47)], ids=["skipped", "doubled"]
    )
    def test_cron_runs_once_step(
        image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: str, minutes: int
    ) -> None:
        """In the skipped night at 04:00, right after; in the doubled one at the first 03:17. Two hours of the night pass."""
        line = written(tmp_path, monkeypatch, "cron", "17 3 * * *")["scutum-ops-backup"]
        script = SCRIPT.format(zone=ZONE, begin=begin, speed=SPEED)
        words = ["docker", "run", "--rm", "-i", "--network", "host", "--entrypoint", "sh", image, "-c", script]
        done = subprocess.run(words, input=line, capture_output=True, text=True, timeout=400, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        [began] = re.findall(r"^began (\d+)$", done.stdout, re.M)
        ran = re.findall(r"^ran (\d+)$", done.stdout, re.M)
        assert len(ran) == 1, f"it ran {len(ran)} times"
        passed = (int(ran[0]) - int(began)) * SPEED / 60
        assert abs(passed - minutes) < 8, f"after {passed:.0f} minutes of that night"
