"""After check mode on the vendor's installation: it said what it would change, and changed nothing."""

from __future__ import annotations

from scenario import Host, playbook

host = Host("scutum-adopt", "/srv/gateway/scutum")


def test_check_mode_says_what_would_change_and_changes_nothing() -> None:
    before = host.fingerprint()
    run = playbook("day_one.yml", "--check", "--diff", "-v")
    assert run.rc == 0, run.out[-3000:]
    assert "litellm: recreate" in run.flat and "LITELLM_SALT_KEY" in run.flat
    for service in ("postgres", "redis", "admin-api", "admin-ui", "docs-site"):
        assert f"{service}: recreate" not in run.flat
    assert host.fingerprint() == before
    assert host.fails("test -e /srv/gateway/scutum/.scutum-ops")


def test_another_directory_is_pointed_to_the_installation_that_runs() -> None:
    run = playbook("day_one.yml", scutum_dir="/opt/scutum")
    assert run.rc != 0 and "set scutum_dir: /srv/gateway/scutum to adopt it" in run.flat
    assert host.fails("test -e /opt/scutum")


def test_a_compose_file_or_a_profile_of_ones_own_is_not_dropped() -> None:
    env = f"{host.directory}/config/.env"
    host.run(f"cp -p {env} /root/env && sed -i s/^COMPOSE_PROFILES=.*/COMPOSE_FILE=mine.yaml/ {env}")
    run = playbook("day_one.yml", "--check")
    host.run(f"cp -p /root/env {env} && rm /root/env")
    assert run.rc != 0 and "is mine.yaml, a file of your own, which adopting would replace" in run.flat, run.out[-2000:]
    assert "services of the profile finops run, and neither scutum_profiles nor COMPOSE_PROFILES" in run.flat


def test_a_version_change_while_adopting_is_refused() -> None:
    run = playbook("day_one.yml", scutum_version="0.2.0")
    assert run.rc != 0 and "adopt it at that version first" in run.flat


def test_edits_in_the_vendors_compose_file_are_not_lost_silently() -> None:
    host.run(
        "cd /srv/gateway/scutum && cp -p docker-compose.yaml /root/dc && sed -i 's/5173/5174/' docker-compose.yaml"
    )
    run = playbook("day_one.yml", "--check")
    host.run("cp -p /root/dc /srv/gateway/scutum/docker-compose.yaml")
    assert run.rc != 0 and "is not the file of release 0.1.0" in run.flat and "5174" in run.flat
    assert "scutum_install_replace_compose" in run.flat
