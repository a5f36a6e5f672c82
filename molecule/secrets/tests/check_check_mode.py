"""Check mode on a bare host kept nothing, and asked the source nothing."""

from __future__ import annotations

from scenario import Host

host = Host("scutum-secrets")


def test_check_mode_left_the_host_bare() -> None:
    assert host.fails("test -e /opt/scutum") and host.fails("test -e /usr/local/lib/scutum-ops")
    assert host.fails("ls -d /run/scutum-ops*") and host.fails(
        "test -e /etc/systemd/system/scutum-ops-secrets-scutum.service"
    )
