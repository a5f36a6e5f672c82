"""Faults: the message, the state that is left, and the way out, each taken."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator

from scenario import Host, playbook, start_playbook

host = Host("scutum-faults")
small = Host("scutum-small")
SCUTUM = ("--limit", "scutum")


@contextlib.contextmanager
def no_registry() -> Iterator[None]:
    """This host cannot reach the registry, whatever its name; the others, in other scenarios, can."""
    rule = "OUTPUT -p tcp --dport 80 -d $(getent hosts ghcr.io | cut -d' ' -f1) -j REJECT --reject-with tcp-reset"
    host.run(f"iptables -I {rule}")
    try:
        yield
    finally:
        host.run(f"iptables -D {rule}")


def test_unknown_version() -> None:
    before = host.fingerprint()
    run = playbook("day_one.yml", *SCUTUM, scutum_version="9.9.9")
    assert run.rc != 0
    assert (
        "release 9.9.9 was not found: http://releases.testbed/release/v9.9.9/docker-compose.yaml answered 404"
        in run.flat
    )
    assert "check scutum_version and scutum_release_base_url" in run.flat
    assert host.fingerprint() == before


def test_wrong_sum() -> None:
    run = playbook(
        "day_one.yml",
        "--limit",
        "small",
        scutum_hosts="small",
        scutum_install_min_free_mb=10,
        scutum_release_base_url="http://releases.testbed/corrupt",
    )
    assert run.rc != 0
    assert "docker-compose.yaml from http://releases.testbed/corrupt/v0.1.0 does not match" in run.flat
    assert "nothing was installed from it" in run.flat
    assert small.fails("test -e /opt/scutum/releases/0.1.0")


def test_port_taken() -> None:
    small.run("systemd-run --unit=squatter python3 -m http.server 4000 && sleep 1")
    run = playbook("day_one.yml", "--limit", "small", scutum_hosts="small")
    small.run("systemctl stop squatter")
    assert run.rc != 0 and "port 4000 (LITELLM_PORT) is already taken on this host" in run.flat
    assert "State: nothing was changed" in run.flat


def test_disk_too_full_is_seen_before_and_when_it_is_not_believed() -> None:
    run = playbook("day_one.yml", "--limit", "small", scutum_hosts="small")
    assert run.rc != 0 and "MiB free, and the images need 4096 MiB (scutum_install_min_free_mb)" in run.flat
    run = playbook("day_one.yml", "--limit", "small", scutum_hosts="small", scutum_install_min_free_mb=10)
    assert run.rc != 0 and "no space left on device" in run.flat and "docker system df" in run.flat
    assert "no container was changed" in run.flat and small.run("docker ps -aq") == ""


def test_engine_too_old() -> None:
    plugin = "/usr/libexec/docker/cli-plugins/docker-compose"
    small.run(
        f"mv {plugin} {plugin}.real && printf '#!/bin/sh\\n"
        'case "$*" in *version*) echo 2.20.3;; *) exec '
        + plugin
        + '.real "$@";; esac\\n\' > '
        + plugin
        + f" && chmod +x {plugin}"
    )
    run = playbook("day_one.yml", "--limit", "small", scutum_hosts="small", scutum_install_min_free_mb=10)
    small.run(f"mv {plugin}.real {plugin}")
    assert run.rc != 0 and "Docker Compose 2.20.3 is too old: 2.24.4 or newer is needed" in run.flat


def test_no_engine_when_the_operator_has_to_bring_it() -> None:
    small.run("systemctl stop docker.socket docker")
    run = playbook(
        "day_one.yml",
        "--limit",
        "small",
        scutum_hosts="small",
        scutum_install_engine="none",
        scutum_install_min_free_mb=10,
    )
    small.run("systemctl start docker")
    assert run.rc != 0 and "scutum_install_engine is none" in run.flat and "systemctl status docker" in run.flat


def test_registry_down_and_image_missing() -> None:
    # The images of 0.2.0 are not on the clone of a host with 0.1.0.
    before = host.containers()
    with no_registry():
        run = playbook("day_one.yml", *SCUTUM, scutum_version="0.2.0")
    assert run.rc != 0 and "cannot pull ghcr.io/scutum-dev/scutum-" in run.flat
    assert "check that the host reaches the registry" in run.flat and "no container was changed" in run.flat
    run = playbook("day_one.yml", *SCUTUM, scutum_version="0.2.0", scutum_image_registry="registry.testbed/nowhere")
    assert (
        run.rc != 0
        and "registry.testbed/nowhere/scutum-dev/scutum-" in run.flat
        and "does not have this image" in run.flat
    )
    assert host.containers() == before


def test_pinned_digest_that_is_another() -> None:
    run = playbook("day_one.yml", *SCUTUM, scutum_image_digests={"redis": "sha256:" + "0" * 64})
    assert run.rc != 0 and "redis: the image is sha256:" in run.flat and "scutum_image_digests says" in run.flat


def test_unreachable_host_does_not_stop_the_others() -> None:
    inventory = "/tmp/scutum-unreachable.yml"
    with open(inventory, "w", encoding="utf-8") as handle:
        handle.write(
            "scutum:\n  hosts:\n    nobody:\n      ansible_connection: ssh\n      ansible_host: 127.0.0.1\n"
            "      ansible_port: 9\n"
        )
    try:
        run = playbook("day_one.yml", "--limit", "scutum", "-i", inventory)
    finally:
        os.unlink(inventory)
    assert run.rc != 0
    assert run.recap("nobody")["unreachable"] == 1
    assert run.recap(host.name)["failed"] == 0 and run.recap(host.name)["changed"] == 0


def test_controller_killed_in_the_middle() -> None:
    process = start_playbook("day_one.yml", *SCUTUM, scutum_litellm_workers=2)
    deadline = time.monotonic() + 60
    while "--num_workers 2" not in host.run("docker inspect -f '{{join .Args \" \"}}' scutum-proxy", check=False):
        assert process.poll() is None and time.monotonic() < deadline, "litellm was not recreated"
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # What had begun on the host goes on without its controller; until it ends, another run is refused.
    deadline = time.monotonic() + 120
    run = playbook("day_one.yml", *SCUTUM, scutum_litellm_workers=2)
    while "another run is changing /opt/scutum" in run.flat and time.monotonic() < deadline:
        time.sleep(2)
        run = playbook("day_one.yml", *SCUTUM, scutum_litellm_workers=2)
    assert run.rc == 0, run.out[-3000:]
    assert playbook("day_one.yml", *SCUTUM, scutum_litellm_workers=2).recap(host.name)["changed"] == 0


def test_a_module_killed_on_the_host_is_continued() -> None:
    process = start_playbook("day_one.yml", *SCUTUM, scutum_litellm_workers=1)
    deadline = time.monotonic() + 60
    while "--num_workers 1" not in host.run("docker inspect -f '{{join .Args \" \"}}' scutum-proxy", check=False):
        assert process.poll() is None and time.monotonic() < deadline, "litellm was not recreated"
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # Ansible's Python reads the module from its standard input, so it has no arguments.
    host.run("pkill -9 -f '^/usr/bin/python3$'; docker kill scutum-proxy", check=False)
    run = playbook("day_one.yml", *SCUTUM, scutum_litellm_workers=1)
    assert run.rc == 0, run.out[-3000:]


def test_another_run_holds_the_lock() -> None:
    holder = subprocess.Popen(["docker", "exec", host.name, "flock", "/opt/scutum/.scutum-ops/lock", "sleep", "20"])
    time.sleep(1)
    run = playbook("day_one.yml", *SCUTUM)
    host.run("pkill -f 'sleep 20'")
    holder.wait()
    assert run.rc != 0 and "another run is changing /opt/scutum" in run.flat


def test_registry_mirror_archive_and_profiles() -> None:
    archive = "/var/tmp/images.tar"
    run = playbook("day_one.yml", *SCUTUM, scutum_image_registry="registry.testbed", scutum_profiles=["finops"])
    assert run.rc == 0, run.out[-3000:]
    image = host.run("docker inspect -f '{{.Config.Image}}' scutum-cost-predictor")
    assert image == "registry.testbed/scutum-dev/scutum-cost-predictor:0.1.0"
    host.run(f"docker save -o {archive} {image} && docker rm -f scutum-cost-predictor && docker image rm {image}")
    with no_registry():
        run = playbook(
            "day_one.yml", *SCUTUM, scutum_image_registry="registry.testbed", scutum_profiles=["finops"],
            scutum_image_archive=archive,
        )  # fmt: skip
        assert run.rc == 0 and "scutum-cost-predictor" in host.containers(), run.out[-3000:]


def test_schema_guard_saves_the_audit_history() -> None:
    host.psql(
        "INSERT INTO audit_logs (actor_id, action, resource_type) SELECT 'witness', 'a', 'b' FROM generate_series(1, 700)"
    )
    rows = host.psql("SELECT count(*) FROM audit_logs")
    run = playbook("day_one.yml", *SCUTUM, scutum_version="0.5.0")
    assert run.rc != 0
    assert f"public.audit_logs is gone (it had {rows} rows)" in run.flat, run.out[-3000:]
    assert "litellm and admin-api are stopped" in run.flat and "set scutum_version back to 0.1.0" in run.flat
    assert host.run("docker inspect -f '{{.State.Status}}' scutum-proxy scutum-admin-api").split() == [
        "exited",
        "exited",
    ]
    assert host.psql("SELECT to_regclass('public.audit_logs') IS NULL") == "t"
    # A second run must not go on as if nothing had happened.
    again = playbook("day_one.yml", *SCUTUM, scutum_version="0.5.0")
    assert again.rc != 0 and "public.audit_logs is gone" in again.flat
    # What the message says, taken literally.
    command = next(line for line in run.out.replace("\\n", "\n").splitlines() if "pg_restore" in line)
    host.run(command[command.index("cd /opt/scutum") :].strip().rstrip('"').replace('\\"', '"'))
    assert host.psql("SELECT count(*) FROM audit_logs WHERE actor_id = 'witness'") == "700"
    back = playbook("day_one.yml", *SCUTUM)
    assert back.rc == 0, back.out[-3000:]
    assert host.psql("SELECT count(*) FROM audit_logs WHERE actor_id = 'witness'") == "700"


def test_failing_migration_is_named_with_the_services_log() -> None:
    run = playbook("day_one.yml", *SCUTUM, scutum_version="0.3.0", scutum_install_start_timeout=120)
    assert run.rc != 0
    assert "admin-api restarts again and again" in run.flat, run.out[-3000:]
    assert ("Migration failed" in run.flat or "no_such_table" in run.flat) and "logs --tail 200 admin-api" in run.flat
    assert host.env()["SCUTUM_VERSION"] == "0.3.0" and host.psql("SELECT version_num FROM alembic_version") == "030"


def test_a_compatible_release_is_installed_through_a_schema_window() -> None:
    run = playbook("day_one.yml", *SCUTUM, scutum_version="0.2.0")
    assert run.rc == 0, run.out[-3000:]
    assert host.psql("SELECT version_num FROM alembic_version") == "030"
    assert host.psql("SELECT count(*) FROM audit_logs WHERE actor_id = 'witness'") == "700"
    assert "before-schema-change-" in host.run("ls /opt/scutum/.scutum-ops/guard")
    assert host.env()["SCUTUM_VERSION"] == "0.2.0"
    refused = playbook("day_one.yml", *SCUTUM)
    assert refused.rc != 0 and "scutum_version is 0.1.0, but 0.2.0 is installed" in refused.flat
