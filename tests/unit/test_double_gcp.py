# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The double of Google Cloud Secret Manager, held to its contract by Google's own client."""

from __future__ import annotations

import json
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import InvalidOperation, RefreshError
from google.cloud import secretmanager_v1
from google.cloud.secretmanager_v1.services.secret_manager_service.transports import SecretManagerServiceRestTransport
from google.oauth2 import credentials, service_account

TOKEN = "ya29.root-canary-7d20"
PARENT = "projects/scutum"
NAME = f"{PARENT}/secrets/JWT_SECRET_KEY"


@pytest.fixture(name="gcp")
def fixture_gcp() -> Iterator[Any]:
    yield from serve(None)


@pytest.fixture(name="guarded")
def fixture_guarded() -> Iterator[Any]:
    yield from serve(TOKEN)


def serve(token: str | None) -> Iterator[Any]:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "testbed/doubles"))
    import gcp_secret_manager

    server = gcp_secret_manager.Server(token, slow=1.5)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(name="key", scope="module")
def fixture_key() -> str:
    """The private key of the service accounts; the double does not look at signatures."""
    return (
        rsa.generate_private_key(public_exponent=65537, key_size=2048)
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        .decode()
    )


def url(gcp: Any) -> str:
    return f"http://127.0.0.1:{gcp.server_port}"


def client(gcp: Any, login: Any = None) -> Any:
    """A client over plain HTTP: a transport made here leaves service accounts to their token_uri."""
    transport = SecretManagerServiceRestTransport(host=url(gcp), credentials=login or AnonymousCredentials())
    return secretmanager_v1.SecretManagerServiceClient(transport=transport)


def account(gcp: Any, key: str, email: str) -> Any:
    """What google-auth makes of a service account's JSON."""
    info = {"type": "service_account", "client_email": email, "private_key": key, "token_uri": f"{url(gcp)}/token"}
    scopes = SecretManagerServiceRestTransport.AUTH_SCOPES
    return service_account.Credentials.from_service_account_info(info, scopes=scopes)


def add(google: Any, data: bytes, name: str = NAME) -> Any:
    return google.add_secret_version(parent=name, payload={"data": data})


def read(google: Any, number: str = "latest", name: str = NAME, timeout: float = 20) -> bytes:
    answer = google.access_secret_version(name=f"{name}/versions/{number}", retry=None, timeout=timeout)
    return bytes(answer.payload.data)


def create(google: Any, secret_id: str, **more: Any) -> Any:
    secret = {"replication": {"automatic": {}}, **more}
    return google.create_secret(parent=PARENT, secret_id=secret_id, secret=secret)


def test_the_double_keeps_to_what_googles_client_expects(gcp: Any) -> None:
    google = client(gcp)
    assert create(google, "JWT_SECRET_KEY").name == NAME and "automatic" in google.get_secret(name=NAME).replication
    with pytest.raises(exceptions.Conflict, match="already exists"):
        create(google, "JWT_SECRET_KEY")
    for secret_id in ("a.b", "a b", "x" * 256):
        with pytest.raises(exceptions.BadRequest):
            create(google, secret_id)
    with pytest.raises(exceptions.NotFound, match="has no versions"):
        read(google)
    first, second = add(google, b"one"), add(google, "zwei €".encode())
    assert first.name == f"{NAME}/versions/1" and second.state.name == "ENABLED" and second.create_time
    assert read(google) == "zwei €".encode() and read(google, "1") == b"one"
    with urllib.request.urlopen(f"{url(gcp)}/test/reads", timeout=5) as answer:
        assert json.load(answer) == {"reads": 3}
    assert google.get_secret_version(name=f"{NAME}/versions/latest").name == second.name


def test_payloads_are_checked_as_google_checks_them(gcp: Any) -> None:
    import gcp_secret_manager

    assert gcp_secret_manager.crc32c(b"123456789") == 0xE3069283
    google = client(gcp)
    create(google, "JWT_SECRET_KEY")
    good = {"data": b"123456789", "data_crc32c": 0xE3069283}
    assert google.add_secret_version(parent=NAME, payload=good).client_specified_payload_checksum
    answer = google.access_secret_version(name=f"{NAME}/versions/latest")
    assert answer.payload.data_crc32c == 0xE3069283
    for bad in ({"data": b""}, {"data": b"x", "data_crc32c": 1}, {"data": b"x" * 65537}):
        with pytest.raises(exceptions.BadRequest):
            google.add_secret_version(parent=NAME, payload=bad)
    assert requests.post(f"{url(gcp)}/v1/{NAME}:addVersion", data="{", timeout=5).status_code == 400


def test_lists_are_filtered_paged_and_newest_first(gcp: Any) -> None:
    google = client(gcp)
    for secret_id in ("scutum-a", "scutum-b", "other", "scutum-c"):
        create(google, secret_id, labels={"stage": secret_id[-1]})
    gcp.manager.put("projects/scutum2/secrets/scutum-z", b"another project's")

    def ids(**request: Any) -> list[str]:
        return [item.name.rpartition("/")[2] for item in google.list_secrets(request={"parent": PARENT, **request})]

    assert ids() == ["scutum-c", "other", "scutum-b", "scutum-a"]
    assert ids(filter="name:scutum-", page_size=2) == ["scutum-c", "scutum-b", "scutum-a"]
    assert ids(filter="name:scutum-a OR labels.stage=r") == ["other", "scutum-a"]
    pages = list(google.list_secrets(request={"parent": PARENT, "page_size": 3}).pages)
    assert [len(page.secrets) for page in pages] == [3, 1] and pages[0].total_size == 4
    assert ids(filter="name:none") == []
    with pytest.raises(exceptions.BadRequest):
        ids(filter="nonsense")
    for data in (b"1", b"2", b"3"):
        add(google, data, f"{PARENT}/secrets/other")
    google.disable_secret_version(name=f"{PARENT}/secrets/other/versions/2")
    versions = google.list_secret_versions(request={"parent": f"{PARENT}/secrets/other", "page_size": 2})
    assert [(v.name[-1], v.state.name) for v in versions] == [("3", "ENABLED"), ("2", "DISABLED"), ("1", "ENABLED")]
    enabled = google.list_secret_versions(request={"parent": f"{PARENT}/secrets/other", "filter": "state:ENABLED"})
    assert [v.name[-1] for v in enabled] == ["3", "1"]


def test_versions_that_are_not_enabled_are_not_read(gcp: Any) -> None:
    google = client(gcp)
    gcp.manager.put(NAME, b"one")
    gcp.manager.put(NAME, b"two")
    second = {"name": f"{NAME}/versions/2"}
    assert google.disable_secret_version(**second).state.name == "DISABLED"
    # Google's `latest` is the newest version, not the newest that is enabled.
    with pytest.raises(exceptions.BadRequest, match=r"versions/2\] is in DISABLED state") as caught:
        read(google)
    # Over REST the client's exception is that of the HTTP status; the other one is in the answer.
    assert caught.value.response.json()["error"]["status"] == "FAILED_PRECONDITION"
    assert read(google, "1") == b"one"
    google.enable_secret_version(**second)
    assert read(google) == b"two"
    assert google.destroy_secret_version(**second).destroy_time
    for action in (google.access_secret_version, google.enable_secret_version, google.destroy_secret_version):
        with pytest.raises(exceptions.BadRequest, match="DESTROYED"):
            action(**second)
    assert google.get_secret_version(**second).state.name == "DESTROYED"
    assert add(google, b"three").name == f"{NAME}/versions/3"


def test_what_is_missing_is_named(gcp: Any) -> None:
    google = client(gcp)
    gcp.manager.put(NAME, b"one")
    with pytest.raises(
        exceptions.NotFound, match=r"Secret \[projects/scutum/secrets/none\] not found or has no versions"
    ):
        read(google, name=f"{PARENT}/secrets/none")
    with pytest.raises(exceptions.NotFound, match=r"Secret Version \[.*/versions/9\] not found"):
        read(google, "9")
    with pytest.raises(exceptions.BadRequest, match="not in a valid format"):
        read(google, "newest")
    with pytest.raises(exceptions.NotFound, match=r"secrets/none\] not found\."):
        add(google, b"x", f"{PARENT}/secrets/none")


def test_service_accounts_read_and_only_writers_write(guarded: Any, key: str) -> None:
    root = client(guarded, credentials.Credentials(token=TOKEN))
    writer = client(guarded, account(guarded, key, "writer@scutum.iam.gserviceaccount.com"))
    reader = client(guarded, account(guarded, key, "reader@scutum.iam.gserviceaccount.com"))
    create(root, "JWT_SECRET_KEY")
    add(writer, b"one")
    assert read(reader) == read(root) == b"one" and len(list(reader.list_secrets(parent=PARENT))) == 1
    with pytest.raises(exceptions.Forbidden, match="secretmanager.versions.add"):
        add(reader, b"two")
    with pytest.raises(exceptions.Forbidden, match="secretmanager.secrets.create"):
        create(reader, "OTHER")
    assert len(guarded.manager.tokens) == 2


def test_a_jwt_that_the_account_signed_itself_is_a_token_too(guarded: Any, key: str) -> None:
    """The client asks no token endpoint when it makes its own transport."""
    guarded.manager.put(NAME, b"one")
    reader = secretmanager_v1.SecretManagerServiceClient(
        credentials=account(guarded, key, "reader@scutum.iam.gserviceaccount.com"),
        transport="rest",
        client_options={"api_endpoint": url(guarded)},
    )
    assert read(reader) == b"one" and not guarded.manager.tokens
    with pytest.raises(exceptions.Forbidden):
        add(reader, b"two")


def test_credentials_that_are_not_valid_are_refused(guarded: Any, key: str) -> None:
    guarded.manager.put(NAME, b"one")
    # After a 401 the client asks its credentials for another token; neither of these has one.
    with pytest.raises(InvalidOperation):
        read(client(guarded))
    with pytest.raises(RefreshError):
        read(client(guarded, credentials.Credentials(token="wrong")))
    guarded.manager.fault = "revoked"
    with pytest.raises(RefreshError, match="invalid_grant"):
        read(client(guarded, account(guarded, key, "reader@scutum.iam.gserviceaccount.com")))
    answer = requests.get(f"{url(guarded)}/v1/{NAME}/versions/latest:access", timeout=5)
    assert answer.status_code == 401 and answer.json()["error"]["status"] == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("denied", exceptions.Forbidden),
        ("busy", exceptions.TooManyRequests),
        ("unavailable", exceptions.ServiceUnavailable),
        ("broken", exceptions.InternalServerError),
        ("slow", requests.exceptions.ReadTimeout),
        ("closed", requests.exceptions.ConnectionError),
        ("truncated", requests.exceptions.ChunkedEncodingError),
    ],
)
def test_each_fault_comes_out_as_an_error(gcp: Any, fault: str, error: type[Exception]) -> None:
    google = client(gcp)
    gcp.manager.put(NAME, b"canary")

    def switch(mode: str) -> None:
        requests.post(f"{url(gcp)}/test/fault", json={"mode": mode}, timeout=5).raise_for_status()

    switch(fault)
    with pytest.raises(error) as caught:
        read(google, timeout=1 if fault == "slow" else 20)
    assert "canary" not in str(caught.value)
    switch("none")
    assert read(google) == b"canary"
