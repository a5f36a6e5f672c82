"""Faults: the message, the state that is left, and the way out, each taken."""

from __future__ import annotations

import os
import signal
import subprocess
import time

from scenario import Host, playbook, start_playbook

host = Host("scutum-faults")
small = Host("scutum-small")
SCUTUM = ("--limit", "scutum")


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
    small.run("systemd-run --unit=squatter python3 -m http.server 4000")
    small.run("until curl -s -o /dev/null http://127.0.0.1:4000; do sleep 0.2; done")
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


PLUGIN = "/usr/libexec/docker/cli-plugins/docker-compose"


def test_engine_too_old_or_without_compose() -> None:
    small.run(
        f"mv {PLUGIN} {PLUGIN}.real && printf '#!/bin/sh\\n"
        'case "$*" in *version*) echo 2.20.3;; *) exec '
        + PLUGIN
        + '.real "$@";; esac\\n\' > '
        + PLUGIN
        + f" && chmod +x {PLUGIN}"
    )
    old = playbook("day_one.yml", "--limit", "small", scutum_hosts="small", scutum_install_min_free_mb=10)
    small.run(f"rm {PLUGIN}")
    none = playbook("day_one.yml", "--limit", "small", scutum_hosts="small", scutum_install_min_free_mb=10)
    small.run(f"mv {PLUGIN}.real {PLUGIN}")
    assert old.rc != 0 and "Docker Compose 2.20.3 is too old: 2.24.4 or newer is needed" in old.flat
    assert none.rc != 0 and "Docker Compose is missing: 2.24.4 or newer is needed" in none.flat, none.out[-2000:]


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
    auto = playbook("day_one.yml", "--limit", "small", scutum_hosts="small", scutum_install_min_free_mb=10)
    small.run("systemctl start docker")
    assert run.rc != 0 and "scutum_install_engine is none" in run.flat and "systemctl status docker" in run.flat
    assert auto.rc != 0 and "docker is installed, but its daemon does not answer" in auto.flat, auto.out[-2000:]


def test_registry_down_and_image_missing() -> None:
    # The images of 0.2.0 are not on the clone of a host with 0.1.0.
    before = host.containers()
    with host.without_registry():
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


def test_an_archive_that_is_not_there_or_lacks_an_image() -> None:
    wanted = {"scutum_version": "0.2.0", "scutum_image_archive": "/var/tmp/none.tar"}
    run = playbook("day_one.yml", *SCUTUM, **wanted)
    assert run.rc != 0 and "scutum_image_archive: /var/tmp/none.tar does not exist on the host" in run.flat
    host.run("docker save -o /var/tmp/none.tar redis:7-alpine")
    run = playbook("day_one.yml", *SCUTUM, **wanted)
    host.run("rm /var/tmp/none.tar")
    assert run.rc != 0 and "/var/tmp/none.tar does not hold ghcr.io/scutum-dev/scutum-admin-api:0.2.0" in run.flat
    assert "docker save -o none.tar" in run.flat


def verify(*options: str) -> str:
    """The command on the host, which has to say no; what it says."""
    out = host.run(f"scutum-ops verify {' '.join(options)}; echo rc=$?")
    assert out.endswith("rc=1"), out
    return out


def test_verification_says_what_is_not_what_it_should_be() -> None:
    out = verify("--release", "0.2.0")
    assert "FAIL release: pinned is 0.2.0, but" in out and "litellm is 0.1.0" in out
    assert "FAIL image digests: no image was recorded for admin-api" in out
    state = f"{host.directory}/.scutum-ops/state.json"
    host.run(
        f"cp -p {state} /root/state && sed -i -E '/\"redis\": \\{{/,/\\}}/s/sha256:[0-9a-f]{{8}}/sha256:00000000/' {state}"
    )
    host.psql("UPDATE alembic_version SET version_num = '028'")
    out = verify()
    host.psql("UPDATE alembic_version SET version_num = '029'")
    host.run(f"cp -p /root/state {state}")
    assert (
        "FAIL image digests: redis: the image is sha256:" in out and "at the first pull of this release it was" in out
    )
    assert "FAIL migrations: the database is at revision 028, the image's head is 029" in out
    host.run("docker stop -t 5 scutum-postgres")
    out = verify()
    host.run("docker start scutum-postgres")
    assert "FAIL container postgres: is exited" in out and "FAIL admin-api with database" in out
    assert "FAIL migrations: Postgres: its container does not run" in out


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
    deadline = time.monotonic() + 180
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


def test_another_run_holds_the_lock() -> None:
    holder = subprocess.Popen(["docker", "exec", host.name, "flock", "/opt/scutum/.scutum-ops/lock", "sleep", "600"])
    while not host.fails("flock -n /opt/scutum/.scutum-ops/lock true"):
        time.sleep(0.2)
    run = playbook("day_one.yml", *SCUTUM)
    host.run("pkill -f 'sleep 600'")
    holder.wait()
    assert run.rc != 0 and "another run is changing /opt/scutum" in run.flat


def test_a_registry_that_refuses_the_login() -> None:
    """One that takes it, an archive and profiles are in long_faults."""
    wanted = {"scutum_image_registry": "private.testbed", "scutum_image_registry_username": "robot"}
    refused = playbook("day_one.yml", *SCUTUM, **wanted, scutum_image_registry_password="registry-wrong")
    assert refused.rc != 0 and "registry private.testbed: login as robot refused" in refused.flat, refused.out[-2000:]


def test_schema_guard_saves_the_audit_history() -> None:
    host.psql(
        "INSERT INTO audit_logs (actor_id, action, resource_type) SELECT 'witness', 'a', 'b' FROM generate_series(1, 700)"
    )
    rows = host.psql("SELECT count(*) FROM audit_logs")
    run = playbook("day_one.yml", *SCUTUM, scutum_version="0.5.0")
    assert run.rc != 0
    assert f"public.audit_logs is gone (it had {rows} rows)" in run.flat, run.out[-3000:]
    assert "admin-api and litellm are stopped" in run.flat and "set scutum_version back to 0.1.0" in run.flat
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


def test_a_compatible_release_comes_through_a_schema_window_that_was_killed() -> None:
    planned = playbook("day_one.yml", *SCUTUM, "--check", scutum_version="0.2.0")
    assert planned.rc == 0 and "schema window" in planned.flat, planned.out[-3000:]
    process = start_playbook("day_one.yml", *SCUTUM, scutum_version="0.2.0")
    deadline = time.monotonic() + 240
    while "scutum-ops-schema-window" not in host.run("docker ps --format '{{.Names}}'"):
        assert process.poll() is None and time.monotonic() < deadline, "no schema window was opened"
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # Ansible's Python reads the module from its standard input, so it has no arguments.
    host.run("pkill -9 -f '^/usr/bin/python3$'", check=False)
    # What an operator may do in between: rows more than before are no loss.
    host.psql("INSERT INTO audit_logs (actor_id, action, resource_type) VALUES ('between', 'a', 'b')")
    run = playbook("day_one.yml", *SCUTUM, scutum_version="0.2.0")
    assert run.rc == 0, run.out[-3000:]
    assert host.psql("SELECT version_num FROM alembic_version") == "030"
    assert host.psql("SELECT count(*) FROM audit_logs WHERE actor_id IN ('witness', 'between')") == "701"
    assert "before-schema-change-" in host.run("ls /opt/scutum/.scutum-ops/guard")
    assert host.env()["SCUTUM_VERSION"] == "0.2.0"
    refused = playbook("day_one.yml", *SCUTUM)
    assert refused.rc != 0 and "scutum_version is 0.1.0, but 0.2.0 is installed" in refused.flat
