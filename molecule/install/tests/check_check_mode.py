"""After check mode on a bare host: it is still bare."""

from __future__ import annotations

from scenario import Host

host = Host("scutum-install")


def test_check_mode_changed_nothing_on_a_bare_host() -> None:
    assert host.fails("test -e /opt/scutum")
    assert host.fails("command -v docker")
    assert host.fails("test -e /usr/local/sbin/scutum-ops")
    assert host.fails("ls -d /run/scutum-ops-* /tmp/scutum-ops-*")
