"""The sources of secrets as scenarios use them: real services or doubles, written to from outside of the collection."""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any, ClassVar

from scenario import REPO, Host, bed

DOUBLES = REPO / "testbed/doubles"
# As a source holds them. Each begins with something that no file has by chance.
CANARIES = {
    "SCUTUM_API_KEY": "sk-canary-4b1d7e0a9c5f2e8d6a3b",
    "JWT_SECRET_KEY": "canary-jwt-0d94e6b15a7c48f2b39e61d05c7a",
    "INTERNAL_SERVICE_KEY": "canary-internal-7c20b8f41e6d49a3950fbe82",
    "POSTGRES_PASSWORD": "canary-postgres-5e1f93",
    "LITELLM_SALT_KEY": "canary-salt-a86f0c2d71b94e35",
    "OPENAI_API_KEY": "canary-openai-6f1b7d20",
}


def gateway() -> str:
    """This machine, as hosts of the testbed reach it: the bridge's own address, the first of its network."""
    shown = subprocess.run(
        ["docker", "network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", "scutum-testbed"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return str(next(ipaddress.ip_network(shown.stdout.strip()).hosts()))


class Vault:
    """The double of Vault in a container, which outlives the tests of one phase."""

    name = "hashi_vault"
    ROOT = "canary-root-token-1b7e"

    def __init__(self, path: str, auth: str = "token") -> None:
        self.path = path
        self.options: dict[str, Any] = {"url": "http://vault.testbed:8200", "path": f"scutum/{path}"}
        self.credential = {"token": self.ROOT}
        self.writer = self.credential
        if auth == "approle":
            self.options["auth"] = "approle"
            self.credential = {"role_id": "scutum-hosts", "secret_id": "canary-secret-id-9f2b6d"}
            self.writer = {"role_id": "writer-rotation", "secret_id": "canary-writer-id-2c81fa"}

    @classmethod
    def start(cls) -> None:
        """Start it, empty, with the two roles."""
        bed("double", "vault")
        for _attempt in range(50):
            try:
                cls.fault("none")
                break
            except OSError:
                time.sleep(0.2)
        for role in ({"role_id": "scutum-hosts", "secret_id": "canary-secret-id-9f2b6d"},
                     {"role_id": "writer-rotation", "secret_id": "canary-writer-id-2c81fa"}):  # fmt: skip
            cls.call("/v1/auth/approle/role/scutum", role)

    @classmethod
    def call(cls, path: str, body: Any = None) -> Any:
        networks = subprocess.run(
            ["docker", "inspect", "-f", "{{json .NetworkSettings.Networks}}", "scutum-testbed-vault"],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        address = next(iter(json.loads(networks).values()))["IPAddress"]
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{address}:8200{path}", data=data)
        request.add_header("X-Vault-Token", cls.ROOT)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"{}")

    @classmethod
    def fault(cls, mode: str) -> None:
        """sealed, denied, slow, closed, …; none ends it."""
        cls.call("/test/fault", {"mode": mode})

    def put(self, values: dict[str, str]) -> None:
        """A new version of the secret."""
        self.call(f"/v1/secret/data/scutum/{self.path}", {"data": values})

    def held(self, version: int | None = None) -> dict[str, str]:
        """What it holds."""
        query = f"?version={version}" if version else ""
        return dict(self.call(f"/v1/secret/data/scutum/{self.path}{query}")["data"]["data"])

    def down(self) -> None:
        self.fault("sealed")

    def up(self) -> None:
        self.fault("none")


class Aws:
    """moto, in this process: one JSON secret."""

    name = "aws_secrets_manager"
    credential: ClassVar = {"access_key_id": "AKIACANARY4D1E9B7A", "secret_access_key": "canary-aws-secret-5d0e8b71c2"}
    writer: ClassVar = credential

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer

        self.server = ThreadedMotoServer(ip_address="0.0.0.0", port=0, verbose=False)
        self.server.start()
        self.port = self.server.get_host_and_port()[1]
        endpoint = f"http://{gateway()}:{self.port}"
        self.options = {"region": "eu-central-1", "secret_id": "scutum/production", "endpoint_url": endpoint}

    @property
    def client(self) -> Any:
        import boto3

        return boto3.client(
            "secretsmanager", region_name="eu-central-1", endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id="x", aws_secret_access_key="x",
        )  # fmt: skip

    def put(self, values: dict[str, str]) -> None:
        text = json.dumps(values)
        if self.client.list_secrets()["SecretList"]:
            self.client.put_secret_value(SecretId="scutum/production", SecretString=text)
        else:
            self.client.create_secret(Name="scutum/production", SecretString=text)

    def held(self) -> dict[str, str]:
        return dict(json.loads(self.client.get_secret_value(SecretId="scutum/production")["SecretString"]))

    def down(self) -> None:
        self.server.stop()

    def up(self) -> None:
        """On the same port, with what it held: moto keeps it in this process."""
        from moto.server import ThreadedMotoServer

        self.server = ThreadedMotoServer(ip_address="0.0.0.0", port=self.port, verbose=False)
        self.server.start()


class Gcp:
    """The double of Google's Secret Manager, in this process: one secret a key."""

    name = "gcp_secret_manager"
    credential: ClassVar[dict[str, str]] = {}
    writer: ClassVar = credential

    def __init__(self) -> None:
        sys.path.insert(0, str(DOUBLES))
        import gcp_secret_manager as double

        self.server = double.Server()
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        endpoint = f"http://{gateway()}:{self.server.server_port}"
        self.options = {"project": "testbed", "prefix": "scutum-", "endpoint": endpoint}

    def put(self, values: dict[str, str]) -> None:
        for key, value in values.items():
            self.server.manager.put(f"projects/testbed/secrets/scutum-{key}", value.encode())

    def held(self) -> dict[str, str]:
        manager = self.server.manager
        newest = {name: versions[-1]["name"] for name, versions in manager.versions.items()}
        return {name.rsplit("/scutum-", 1)[1]: manager.data[version].decode() for name, version in newest.items()}

    def down(self) -> None:
        self.server.manager.fault = "unavailable"

    def up(self) -> None:
        self.server.manager.fault = "none"


class Sops:
    """A dotenv file, encrypted here with the double of sops (or the real one), decrypted on the host."""

    name = "sops"
    writer: ClassVar[dict[str, str]] = {}

    def __init__(self, host: Host) -> None:
        import pyrage

        self.host = host
        self.identity = pyrage.x25519.Identity.generate()
        self.credential = {"age_key": str(self.identity)}
        self.content = ""
        host.run(
            "command -v age >/dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive "
            "apt-get install -qqy --no-install-recommends age python3-cryptography; } >/dev/null 2>&1"
        )
        host.run("cat > /usr/local/bin/sops && chmod 755 /usr/local/bin/sops", stdin=(DOUBLES / "_sops.py").read_text())

    @property
    def options(self) -> dict[str, Any]:
        return {"content": self.content}

    def put(self, values: dict[str, str]) -> None:
        plain = "".join(f"{key}={value}\n" for key, value in values.items())
        command = [sys.executable, str(DOUBLES / "_sops.py"), "encrypt", "--age", str(self.identity.to_public())]
        words = ["--input-type", "dotenv", "--output-type", "dotenv", "/dev/stdin"]
        done = subprocess.run([*command, *words], input=plain, check=True, capture_output=True, text=True)
        self.content = done.stdout

    def held(self) -> dict[str, str]:
        return {}

    def down(self) -> None:
        self.host.run("mv /usr/local/bin/sops /usr/local/bin/sops.away")

    def up(self) -> None:
        self.host.run("mv /usr/local/bin/sops.away /usr/local/bin/sops")


def variables(source: Any, injection: str = "auto") -> dict[str, Any]:
    """The role's variables for a source."""
    return {
        "scutum_secrets_source": source.name,
        "scutum_secrets_options": source.options,
        "scutum_secrets_credential": source.credential,
        "scutum_secrets_injection": injection,
    }


def main() -> None:
    """For prepare.yml: Vault with the canaries."""
    Vault.start()
    Vault("production").put(CANARIES | json.loads(Path(sys.argv[1]).read_text() if len(sys.argv) > 1 else "{}"))


if __name__ == "__main__":
    main()
