"""An object store as scenarios use it: moto in the test's own process, which hosts reach through the bridge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
import sources
from moto.server import ThreadedMotoServer

KEYS = {
    "SCUTUM_BACKUP_ACCESS_KEY_ID": "AKIA-canary-7b20aa",
    "SCUTUM_BACKUP_SECRET_ACCESS_KEY": "canary-backup-secret-3f81c0",
}
AUDIT_KEYS = {
    "SCUTUM_AUDIT_ACCESS_KEY_ID": "AKIA-canary-c05e18",
    "SCUTUM_AUDIT_SECRET_ACCESS_KEY": "canary-audit-secret-9d47b2",
}
BUCKET, PREFIX, AUDIT = "backups", "scutum/host", "scutum/audit"


class S3:
    """A bucket, and what is in it."""

    def __init__(self) -> None:
        self.server = ThreadedMotoServer(ip_address="0.0.0.0", port=0, verbose=False)
        self.server.start()
        port = self.server.get_host_and_port()[1]
        self.client: Any = boto3.client(
            "s3",
            region_name="eu-central-1",
            endpoint_url=f"http://127.0.0.1:{port}",
            aws_access_key_id="x",
            aws_secret_access_key="x",
        )
        place = {"LocationConstraint": "eu-central-1"}
        self.client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration=place)
        self.settings = {
            "bucket": BUCKET, "prefix": PREFIX, "region": "eu-central-1", "addressing_style": "path",
            "endpoint_url": f"http://{sources.gateway()}:{port}",
        }  # fmt: skip

    def names(self, prefix: str = PREFIX) -> list[str]:
        """Keys below the prefix, in the order in which they were written."""
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/").get("Contents", [])
        return [item["Key"].removeprefix(prefix + "/") for item in sorted(found, key=lambda item: item["LastModified"])]

    def get(self, name: str, prefix: str = PREFIX) -> bytes:
        """An object."""
        return bytes(self.client.get_object(Bucket=BUCKET, Key=f"{prefix}/{name}")["Body"].read())

    def put(self, name: str, data: bytes, prefix: str = PREFIX) -> None:
        """Write an object, as somebody who should not."""
        self.client.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=data)

    def remove(self, name: str, prefix: str = PREFIX) -> None:
        """Delete one, likewise."""
        self.client.delete_object(Bucket=BUCKET, Key=f"{prefix}/{name}")

    def newest(self) -> str:
        """Id of the newest backup; one before a restore does not count."""
        safety = {name.split("/")[0] for name in self.names() if name.endswith("/safety.json")}
        found = {name.split("/")[0] for name in self.names() if name.endswith("/manifest.json")}
        return max(found - safety)


@pytest.fixture(name="s3", scope="module")
def fixture_s3() -> Iterator[S3]:
    """A store for the tests of a file."""
    found = S3()
    yield found
    found.server.stop()
