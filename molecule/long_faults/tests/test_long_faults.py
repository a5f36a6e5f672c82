"""A registry of one's own, with a login, without a way to it, and images from an archive."""

from __future__ import annotations

from scenario import Host, playbook

host = Host("scutum-long-faults")


def test_registry_with_a_login_archive_and_profiles() -> None:
    archive = "/var/tmp/images.tar"
    wanted = {
        "scutum_image_registry": "private.testbed",
        "scutum_profiles": ["finops"],
        "scutum_image_registry_username": "robot",
    }
    refused = playbook("day_one.yml", **wanted, scutum_image_registry_password="registry-wrong")
    assert refused.rc != 0 and "registry private.testbed: login as robot refused" in refused.flat, refused.out[-2000:]
    password = "registry-canary-5c1d"
    run = playbook("day_one.yml", **wanted, scutum_image_registry_password=password)
    assert run.rc == 0, run.out[-3000:]
    assert host.fails("test -e /root/.docker/config.json") and host.fails("ls -d /run/scutum-ops-*")
    image = host.run("docker inspect -f '{{.Config.Image}}' scutum-cost-predictor")
    assert image == "private.testbed/scutum-dev/scutum-cost-predictor:0.1.0"
    host.run(f"docker save -o {archive} {image} && docker rm -f scutum-cost-predictor && docker image rm {image}")
    with host.without_registry():
        run = playbook(
            "day_one.yml", scutum_image_registry="private.testbed", scutum_profiles=["finops"],
            scutum_image_archive=archive,
        )  # fmt: skip
        assert run.rc == 0 and "scutum-cost-predictor" in host.containers(), run.out[-3000:]
    # Without its profile it would run on with its old image and secrets.
    back = playbook("day_one.yml")
    assert back.rc == 0, back.out[-3000:]
    assert "scutum-cost-predictor" not in host.run("docker ps --format '{{.Names}}'")
