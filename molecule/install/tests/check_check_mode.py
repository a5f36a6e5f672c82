"""After check mode on a bare host: it is still bare."""

from __future__ import annotations

from scenario import Host, playbook

host = Host("scutum-install")


def test_a_repository_without_what_it_needs_is_refused() -> None:
    none = playbook("day_one.yml", scutum_install_engine="repository")
    half = playbook(
        "day_one.yml", scutum_install_engine="repository", scutum_install_engine_repository={"uri": "http://x"}
    )
    assert none.rc != 0 and "scutum_install_engine_repository is not set" in none.flat, none.out[-2000:]
    assert half.rc != 0 and "scutum_install_engine_repository lacks key, suite" in half.flat, half.out[-2000:]
    assert "Nothing was changed" in half.flat


def test_check_mode_changed_nothing_on_a_bare_host() -> None:
    assert host.fails("test -e /opt/scutum")
    assert host.fails("command -v docker")
    assert host.fails("test -e /usr/local/sbin/scutum-ops")
    assert host.fails("ls -d /run/scutum-ops-* /tmp/scutum-ops-*")
