#!/usr/bin/env python3
"""The testbed of scutum.ops: engine, images, registry, release server and target hosts on this machine.

docs/testbed.md explains it. Messages go to standard error, answers (a tag, an address) to standard output.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from hosts import engine, golden, host, images, network, platforms, services, storage
from hosts.common import CLI, SETTINGS, TestbedError, docker, lock, log, step


def up() -> None:
    """Bring up everything but the hosts; what is there already is kept."""
    with lock():
        engine.ensure()
        storage.ensure()
        images.ensure()
        network.ensure()
        services.ensure_registry()
        services.ensure_images()
        services.ensure_releases()


def _base() -> None:
    """Fast path before a host verb: run `up` only when something is missing."""
    ready = (
        engine.answers()
        and images.present()
        and network.exists()
        and services.running("registry")
        and services.running("private")
        and services.running("releases")
    )
    if not ready:
        up()
    else:
        with lock():
            storage.ensure()


def down(*, everything: bool, stop_engine: bool) -> None:
    """Remove what carries the testbed's label, and nothing else."""
    with lock():
        if engine.answers():
            label = ("--filter", f"label={SETTINGS.label}")
            for name in host.names():
                host.remove(name)
            containers = docker("ps", "-aq", *label).split()
            if containers:
                with step("remove registry and release server"):
                    docker("rm", "-f", "-v", *containers)
            for tag in docker("image", "ls", "--format", "{{.Tag}}", f"{SETTINGS.name}/snapshot").split():
                host.snapshot_remove(tag)
            volumes = docker("volume", "ls", "-q", *label).split()
            if volumes:
                docker("volume", "rm", "-f", *volumes)
            if docker("network", "ls", "-q", *label):
                network.exists()
                docker("network", "rm", SETTINGS.name)
            if everything:
                with step("remove the testbed's images"):
                    images.remove_all()
        with step("remove the hosts' disk"):
            storage.tear_down()
        if stop_engine:
            engine.stop()
    if everything and SETTINGS.cache.exists():
        with step(f"remove {SETTINGS.cache}"):
            keep = {SETTINGS.cache / "dockerd.pid", SETTINGS.cache / "dockerd.log"} if not stop_engine else set()
            for entry in SETTINGS.cache.iterdir():
                if entry not in keep:
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def show_hosts() -> None:
    """One line a host: name, state, address, what it was made from; then the snapshots."""
    for name in host.names():
        state = docker("inspect", "-f", '{{.State.Status}} {{index .Config.Labels "org.scutum.testbed.source"}}', name)
        status, source = state.split(" ", 1)
        ip = host.address(name) if status == "running" else "-"
        print(f"{name:32} {status:9} {ip:15} from {source}")
    for tag in host.snapshots():
        print(f"snapshot {tag}")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="testbed.py", description=__doc__.splitlines()[0] if __doc__ else "")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("engine", help="make sure that a container engine answers")
    verbs.add_parser("up", help="engine, images, network, registry, release server")
    gone = verbs.add_parser("down", help="remove containers, network, volumes and snapshots; caches stay")
    gone.add_argument("--all", action="store_true", help="the caches and images of the testbed, too")
    gone.add_argument("--engine", action="store_true", help="stop the dockerd that the testbed started")

    hosts = verbs.add_parser("host", help="target hosts").add_subparsers(dest="action", required=True, metavar="ACTION")
    new = hosts.add_parser("create", help="create and boot a host (replaces one of that name)")
    new.add_argument("name")
    new.add_argument("--from", dest="source", default="bare", help="bare (default), noengine, golden or a snapshot")
    new.add_argument("--ssh", action="store_true", help="sshd with the testbed's key")
    new.add_argument("--keep", action="store_true", help="keep a host of that name when it runs")
    new.add_argument("--disk-limit", metavar="SIZE", help="/var/lib/docker on its own small disk, such as 2G")
    for action, text in (("rm", "remove"), ("start", "boot"), ("stop", "shut down")):
        hosts.add_parser(action, help=f"{text} hosts").add_argument("names", nargs="+", metavar="NAME")
    hosts.add_parser("list", help="list hosts and snapshots")

    snap = verbs.add_parser("snapshot", help="snapshot NAME TAG | exists TAG | rm TAG")
    snap.add_argument("what", metavar="NAME|exists|rm")
    snap.add_argument("tag", metavar="TAG")

    gold = verbs.add_parser("golden", help="print the tag of a snapshot with Scutum installed; make it when missing")
    gold.add_argument("--playbook", default="playbooks/day_one.yml")
    gold.add_argument("--tag-only", action="store_true", help="print the tag, make nothing")
    many = verbs.add_parser("platforms", help="create or destroy Molecule's platforms (JSON on standard input)")
    many.add_argument("action", choices=("create", "destroy"))
    many.add_argument("--instance-config", required=True, help="the file that tells Molecule how to connect")
    service = verbs.add_parser("service", help="stop or start the registry or the release server (a fault)")
    service.add_argument("action", choices=("stop", "start"))
    service.add_argument("service", choices=("registry", "releases"))
    double = verbs.add_parser(
        "double", help="start a double of a service, empty, as <name>.testbed; prints its address"
    )
    double.add_argument("name", help="a program in testbed/doubles")
    inside = verbs.add_parser("exec", help="run a command on a host: exec NAME -- CMD")
    inside.add_argument("name")
    inside.add_argument("command", nargs=argparse.REMAINDER)
    verbs.add_parser("ip", help="print a host's address").add_argument("name")
    verbs.add_parser("ssh-key", help="print the path of the private key for hosts created with --ssh")
    return top


def _host(args: argparse.Namespace) -> None:
    if args.action == "create":
        _base()
        if args.keep and host.running(args.name):
            log(f"  ✓ host {args.name} is there")
            print(host.address(args.name))
            return
        source = golden.ensure() if args.source == "golden" else args.source
        host.create(host.Spec(args.name, source, args.ssh, args.disk_limit))
        print(host.address(args.name))
    elif args.action == "list":
        show_hosts()
    else:
        verb = {"rm": host.remove, "start": host.start, "stop": host.stop}[args.action]
        for name in args.names:
            verb(name)


def _snapshot(args: argparse.Namespace) -> int:
    if args.what == "exists":
        return 0 if host.snapshot_exists(args.tag) else 1
    if args.what == "rm":
        host.snapshot_remove(args.tag)
    else:
        host.snapshot(args.what, args.tag)
    return 0


def dispatch(args: argparse.Namespace) -> int:
    """Run one verb."""
    match args.verb:
        case "engine":
            engine.ensure()
        case "up":
            up()
        case "down":
            down(everything=args.all, stop_engine=args.engine)
        case "host":
            _host(args)
        case "snapshot":
            return _snapshot(args)
        case "golden" if args.tag_only:
            print(golden.tag())
        case "golden":
            _base()
            print(golden.ensure(args.playbook))
        case "platforms":
            if args.action == "create":
                _base()
            platforms.apply(args.action, json.load(sys.stdin), Path(args.instance_config))
        case "double":
            _base()
            print(services.start_double(args.name))
        case "service":
            services.set_running(args.service, args.action == "start")
        case "exec":
            host.require(args.name)
            command = args.command[1:] if args.command[:1] == ["--"] else args.command
            return subprocess.run(["docker", "exec", "-i", args.name, *command], check=False).returncode
        case "ip":
            host.require(args.name)
            print(host.address(args.name))
        case "ssh-key":
            print(host.ssh_key())
    return 0


def main() -> int:
    """Entry point."""
    args = parser().parse_args()
    start = time.monotonic()
    try:
        code = dispatch(args)
    except TestbedError as exc:
        log(f"testbed: {exc}")
        return 1
    except KeyboardInterrupt:
        log(f"testbed: interrupted; `{CLI} host list` shows what is there, `{CLI} down` removes it")
        return 130
    if args.verb not in ("exec", "ip", "ssh-key", "snapshot"):
        log(f"testbed {args.verb}: {time.monotonic() - start:.1f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
