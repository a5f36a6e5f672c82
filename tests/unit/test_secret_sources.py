"""Every source through its one interface: read, versions before, write, and what each failure says. The doubles by the vendors' clients."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.secret_sources import NAMES, Source

DOUBLES = Path(__file__).resolve().parents[2] / "testbed/doubles"
VALUES = {
    "SCUTUM_API_KEY": "sk-" + "a" * 64,
    "JWT_SECRET_KEY": "j" * 64,
    "INTERNAL_SERVICE_KEY": "i" * 64,
    "POSTGRES_PASSWORD": "p" * 32,
    "LITELLM_SALT_KEY": "s" * 64,
}
CHANGE = {"JWT_SECRET_KEY": "n" * 64}


def double(name: str) -> Any:
    sys.path.insert(0, str(DOUBLES))
    return __import__(name)


def serve(server: Any) -> Iterator[Any]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def refused(source: Source) -> str:
    """What a failing read says: the three parts, and no value."""
    with pytest.raises(ScutumError) as error:
        source.read()
    text = str(error.value)
    assert source.where in text and "State: nothing was changed" in text and "canary" not in text
    return text


def rotates(source: Source) -> None:
    """A write puts new values beside the old ones, and leaves all other keys."""
    before = source.read()
    source.write(CHANGE, {key: before[key] for key in CHANGE})
    after = source.read()
    assert {key: after[key] for key in VALUES} == {**VALUES, **CHANGE}
    held = [content.get("JWT_SECRET_KEY") for content in source.older(after)]
    assert VALUES["JWT_SECRET_KEY"] in held, "the old one can still be read"


# --- Vault


ROOT = "hvs.root-canary-51c7"


@pytest.fixture(name="vault")
def fixture_vault() -> Iterator[Any]:
    yield from serve(double("vault").Server(ROOT, slow=1.5))


def url(vault: Any) -> str:
    return f"http://127.0.0.1:{vault.server_port}"


def test_the_double_keeps_to_what_hvac_expects(vault: Any) -> None:
    import hvac
    import hvac.exceptions

    root = hvac.Client(url=url(vault), token=ROOT)
    kv2 = root.secrets.kv.v2
    kv2.create_or_update_secret(path="scutum/a", secret={"K": "1"}, mount_point="secret")
    kv2.create_or_update_secret(path="scutum/a", secret={"K": "2"}, mount_point="secret")
    read = kv2.read_secret_version
    assert read(path="scutum/a", mount_point="secret", raise_on_deleted_version=True)["data"]["data"] == {"K": "2"}
    old = read(path="scutum/a", mount_point="secret", version=1, raise_on_deleted_version=True)
    assert old["data"]["data"] == {"K": "1"} and old["data"]["metadata"]["version"] == 1
    for wanted in ({"path": "none"}, {"path": "scutum/a", "version": 9}):
        with pytest.raises(hvac.exceptions.InvalidPath):
            read(mount_point="secret", raise_on_deleted_version=True, **wanted)
    root.secrets.kv.v1.create_or_update_secret(path="scutum/b", secret={"K": "3"}, mount_point="kv1")
    assert root.secrets.kv.v1.read_secret(path="scutum/b", mount_point="kv1")["data"] == {"K": "3"}
    vault.vault.roles["r"] = "s"
    reader = hvac.Client(url=url(vault))
    reader.auth.approle.login(role_id="r", secret_id="s")
    assert reader.secrets.kv.v2.read_secret_version(
        path="scutum/a", mount_point="secret", raise_on_deleted_version=True
    )
    with pytest.raises(hvac.exceptions.Forbidden):
        reader.secrets.kv.v2.read_secret_version(path="other", mount_point="secret", raise_on_deleted_version=True)
    with pytest.raises(hvac.exceptions.Forbidden):
        reader.secrets.kv.v2.create_or_update_secret(path="scutum/a", secret={"K": "9"}, mount_point="secret")
    with pytest.raises(hvac.exceptions.InvalidRequest):
        hvac.Client(url=url(vault)).auth.approle.login(role_id="r", secret_id="wrong")
    spaced = hvac.Client(url=url(vault), token=ROOT, namespace="ns")
    with pytest.raises(hvac.exceptions.InvalidPath):
        spaced.secrets.kv.v2.read_secret_version(path="scutum/a", mount_point="secret", raise_on_deleted_version=True)
    vault.vault.fault = "sealed"
    assert root.seal_status["sealed"] is True
    with pytest.raises(hvac.exceptions.VaultDown):
        read(path="scutum/a", mount_point="secret", raise_on_deleted_version=True)


def vault_source(vault: Any, timeout: float = 20, credential: dict[str, str] | None = None, **options: Any) -> Source:
    settings = {"url": url(vault), "path": "scutum/production"} | options
    return Source("hashi_vault", settings, credential or {"token": ROOT}, timeout)


def test_vault_is_asked_once_for_all_keys(vault: Any) -> None:
    vault.vault.kv2["secret/data/scutum/production"] = [{**VALUES, "JWT_SECRET_KEY": "o" * 64}, {**VALUES, "EMPTY": ""}]
    vault.vault.kv2["ns/secret/data/scutum/production"] = [{**VALUES, "N": "in the namespace"}]
    vault.vault.kv1["kv1/scutum/production"] = VALUES
    vault.vault.roles["r"] = "s"
    assert vault_source(vault).read() == VALUES and vault.vault.reads == 1
    assert vault_source(vault, version=1).read()["JWT_SECRET_KEY"] == "o" * 64
    assert vault_source(vault, kv_version=1, mount="kv1").read() == VALUES
    assert vault_source(vault, namespace="ns").read()["N"] == "in the namespace"
    assert vault_source(vault, auth="approle", credential={"role_id": "r", "secret_id": "s"}).read() == VALUES


def test_vault_logs_in_with_a_jwt_and_with_a_certificate(vault: Any, tmp_path: Path) -> None:
    vault.vault.kv2["secret/data/scutum/production"] = [VALUES]
    vault.vault.logins = {"jwt:hosts": "canary.jwt", "cert:hosts": ""}
    jwt = vault_source(vault, auth="jwt", role="hosts", credential={"jwt": "canary.jwt"})
    assert jwt.read() == VALUES
    assert "refuses the request (400)" in refused(
        vault_source(vault, auth="jwt", role="hosts", credential={"jwt": "canary.wrong"})
    )
    files = {name: str(tmp_path / name) for name in ("cert_file", "key_file")}
    assert "Could not find the TLS certificate file" in refused(
        vault_source(vault, auth="cert", credential={"unused": ""}, **files)
    )
    for path in files.values():
        Path(path).touch()
    cert = vault_source(vault, auth="cert", role="hosts", credential={"token": ""}, **files)
    assert cert.read() == VALUES and cert.problems() == []
    assert len(vault_source(vault, auth="cert").problems()) == 2


def test_vault_keeps_what_a_write_replaces(vault: Any) -> None:
    vault.vault.kv2["secret/data/scutum/production"] = [VALUES]
    vault.vault.kv1["kv1/scutum/production"] = VALUES
    rotates(vault_source(vault))
    rotates(vault_source(vault, kv_version=1, mount="kv1"))
    assert vault.vault.kv1["kv1/scutum/production"]["JWT_SECRET_KEY_PREVIOUS"] == VALUES["JWT_SECRET_KEY"]
    vault.vault.roles["r"] = "s"
    reader = vault_source(vault, auth="approle", credential={"role_id": "r", "secret_id": "s"})
    with pytest.raises(ScutumError, match=r"may not do that \(403\)"):
        reader.write(CHANGE, CHANGE)


def test_a_write_that_another_one_overtook_is_refused(vault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    vault.vault.kv2["secret/data/scutum/production"] = [VALUES]
    source = vault_source(vault)
    module = sys.modules[Source.__module__].MODULES["hashi_vault"]
    plain = module._version

    def overtaken(*arguments: Any) -> Any:
        found = plain(*arguments)
        vault.vault.kv2["secret/data/scutum/production"].append({**VALUES, "OTHER": "x"})
        return found

    monkeypatch.setattr(module, "_version", overtaken)
    with pytest.raises(ScutumError, match="refuses the request"):
        source.write(CHANGE, CHANGE)
    assert vault.vault.kv2["secret/data/scutum/production"][-1]["OTHER"] == "x"


@pytest.mark.parametrize(
    ("fault", "options", "words"),
    [
        ("none", {"path": "scutum/none"}, "secret/scutum/none: there is no such secret (404)"),
        ("denied", {}, "may not do that (403)"),
        ("sealed", {}, "it is sealed (503)"),
        ("slow", {}, "no answer within 1 s"),
        ("closed", {}, "it cannot be reached (ConnectionError)"),
        ("broken", {}, "InternalServerError"),
        ("truncated", {}, "it cannot be reached"),
        ("none", {"url": "http://127.0.0.1:9"}, "it cannot be reached"),
        ("none", {}, "JWT_SECRET_KEY, POSTGRES_PASSWORD missing or empty"),
    ],
)
def test_each_failure_of_vault_is_said(vault: Any, fault: str, options: dict[str, Any], words: str) -> None:
    held = {key: f"canary-{value}" for key, value in VALUES.items()}
    del held["POSTGRES_PASSWORD"]
    vault.vault.kv2["secret/data/scutum/production"] = [{**held, "JWT_SECRET_KEY": ""}]
    vault.vault.fault = fault
    assert words in refused(vault_source(vault, timeout=1 if fault == "slow" else 20, **options))


# --- AWS


ONE = "scutum/production"


@pytest.fixture(name="aws")
def fixture_aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    post(f"http://{host}:{port}/moto-api/reset")
    server.stop()


def post(url: str, data: bytes = b"") -> None:
    with urllib.request.urlopen(urllib.request.Request(url, data, {"Content-Type": "text/plain"}), timeout=10):
        pass


KEYS = {"access_key_id": "AKIACANARY00000000", "secret_access_key": "canary-secret-access-key"}


def client(endpoint: str) -> Any:
    import boto3

    return boto3.client(
        "secretsmanager", region_name="eu-central-1", endpoint_url=endpoint,
        aws_access_key_id="x", aws_secret_access_key="x",
    )  # fmt: skip


def aws_source(endpoint: str, credential: dict[str, str] | None = None, timeout: float = 20, **options: Any) -> Source:
    settings = {"region": "eu-central-1", "endpoint_url": endpoint} | (options or {"secret_id": ONE})
    return Source("aws_secrets_manager", settings, KEYS if credential is None else credential, timeout)


def test_aws_holds_all_keys_in_one_secret_or_each_in_its_own(aws: str) -> None:
    client(aws).create_secret(Name=ONE, SecretString=json.dumps(VALUES))
    # More than a page.
    for number in range(25):
        client(aws).create_secret(Name=f"scutum/each/MORE_{number}", SecretString="x")
    for key, value in VALUES.items():
        client(aws).create_secret(Name=f"scutum/each/{key}", SecretString=value)
    client(aws).create_secret(Name="other/scutum/each/JWT_SECRET_KEY", SecretString="somebody else's")
    assert aws_source(aws).read() == VALUES
    each = aws_source(aws, prefix="scutum/each/").read()
    assert {key: each[key] for key in VALUES} == VALUES and len(each) == 30
    rotates(aws_source(aws))
    rotates(aws_source(aws, prefix="scutum/each/"))
    stages = aws_source(aws, secret_id=ONE, version_stage="AWSPREVIOUS").read()
    assert stages["JWT_SECRET_KEY"] == VALUES["JWT_SECRET_KEY"] and "JWT_SECRET_KEY_PREVIOUS" not in stages


def test_each_failure_of_aws_is_said(aws: str) -> None:
    client(aws).create_secret(Name="text", SecretString="canary: no JSON")
    client(aws).create_secret(Name="lacking", SecretString=json.dumps({**VALUES, "JWT_SECRET_KEY": ""}))
    assert "no such secret, or no such version stage (404)" in refused(aws_source(aws, secret_id="none"))
    assert "it is no JSON object" in refused(aws_source(aws, secret_id="text"))
    assert "JWT_SECRET_KEY missing or empty" in refused(aws_source(aws, secret_id="lacking"))
    assert "there is no secret with that prefix" in refused(aws_source(aws, prefix="none/"))
    assert "there is no credential on this host" in refused(aws_source(aws, credential={}, secret_id="text"))
    assert "it cannot be reached (EndpointConnectionError)" in refused(aws_source("http://127.0.0.1:9", secret_id=ONE))


def test_aws_refuses_who_may_not(aws: str) -> None:
    client(aws).create_secret(Name=ONE, SecretString=json.dumps(VALUES))
    post(f"{aws}/moto-api/reset-auth", b"0")
    try:
        assert "the credential may not do that" in refused(aws_source(aws))
    finally:
        post(f"{aws}/moto-api/reset-auth", b"inf")


# --- Google


@pytest.fixture(name="gcp")
def fixture_gcp() -> Iterator[Any]:
    yield from serve(double("gcp_secret_manager").Server(slow=1.5))


def gcp_source(gcp: Any, timeout: float = 20, credential: dict[str, str] | None = None, **options: Any) -> Source:
    settings = {"project": "p", "endpoint": f"http://127.0.0.1:{gcp.server_port}"} | (
        options or {"secret": "production"}
    )
    return Source("gcp_secret_manager", settings, credential or {}, timeout)


def test_google_holds_all_keys_in_one_secret_or_each_in_its_own(gcp: Any) -> None:
    gcp.manager.put("projects/p/secrets/production", json.dumps(VALUES).encode())
    gcp.manager.put("projects/p/secrets/other-each-JWT_SECRET_KEY", b"somebody else's")
    for key, value in VALUES.items():
        gcp.manager.put(f"projects/p/secrets/each-{key}", value.encode())
    assert gcp_source(gcp).read() == VALUES and gcp.manager.reads == 1
    assert gcp_source(gcp, prefix="each-").read() == VALUES
    rotates(gcp_source(gcp))
    rotates(gcp_source(gcp, prefix="each-"))
    assert gcp_source(gcp, secret="production", version="1").read() == VALUES


@pytest.mark.parametrize(
    ("fault", "options", "words"),
    [
        ("none", {"secret": "none"}, "there is no such secret or version (404)"),
        ("none", {"prefix": "none-"}, "there is no secret with that prefix"),
        ("none", {"secret": "text"}, "it is no JSON object"),
        ("none", {"secret": "lacking"}, "JWT_SECRET_KEY missing or empty"),
        ("denied", {}, "the credential may not do that (403)"),
        ("busy", {}, "TooManyRequests (429)"),
        ("unavailable", {}, "ServiceUnavailable (503)"),
        ("broken", {}, "InternalServerError (500)"),
        ("slow", {}, "no answer within 1 s"),
        ("closed", {}, "it cannot be reached (ConnectionError)"),
        ("truncated", {}, "it cannot be reached (ChunkedEncodingError)"),
    ],
)
def test_each_failure_of_google_is_said(gcp: Any, fault: str, options: dict[str, Any], words: str) -> None:
    gcp.manager.put("projects/p/secrets/text", b"canary: no JSON")
    gcp.manager.put("projects/p/secrets/lacking", json.dumps({**VALUES, "JWT_SECRET_KEY": ""}).encode())
    gcp.manager.put("projects/p/secrets/production", json.dumps(VALUES).encode())
    gcp.manager.fault = fault
    assert words in refused(gcp_source(gcp, timeout=1 if fault == "slow" else 20, **options))


def test_google_refuses_a_key_that_is_none(gcp: Any) -> None:
    source = gcp_source(gcp, credential={"service_account": "canary"})
    assert source.problems() == [
        "scutum_secrets_credential.service_account is no key of a service account: no a JSON object"
    ]
    fields = {"client_email": "a@b", "private_key": "canary", "token_uri": "http://127.0.0.1:9/token"}
    assert "check scutum_secrets_credential" in refused(
        gcp_source(gcp, credential={"service_account": json.dumps(fields)})
    )


# --- SOPS


@pytest.fixture(name="sops")
def fixture_sops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A file that was encrypted, and keys: that of its recipient, and another one."""
    import pyrage

    bin_ = tmp_path / "bin"
    bin_.mkdir()
    real = shutil.which("sops")
    # The real program where it is there, else the double, with this interpreter's packages.
    program = f'exec {real} "$@"' if real else f'exec {sys.executable} {DOUBLES / "_sops.py"} "$@"'
    (bin_ / "sops").write_text(f"#!/bin/sh\n{program}\n")
    (bin_ / "sops").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("SOPS_AGE_KEY", "SOPS_AGE_KEY_FILE", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    key, other = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()
    plain = tmp_path / "plain.env"
    plain.write_text(
        "# a comment\n" + "".join(f"{name}={value}\n" for name, value in VALUES.items()) + "HARD=a$b 'c' #d\n"
    )
    command = [
        str(bin_ / "sops"),
        "encrypt",
        "--age",
        str(key.to_public()),
        "--input-type",
        "dotenv",
        "--output-type",
        "dotenv",
    ]
    content = subprocess.run([*command, str(plain)], check=True, capture_output=True, text=True).stdout
    return {"content": content, "key": str(key), "other": str(other)}


def sops_source(sops: dict[str, str], key: str = "key", **options: Any) -> Source:
    credential = {"age_key": sops[key]} if key else {}
    return Source("sops", options or {"content": sops["content"]}, credential)


def test_sops_decrypts_a_committed_file_and_one_on_the_host(sops: dict[str, str], tmp_path: Path) -> None:
    wanted = {**VALUES, "HARD": "a$b 'c' #d"}
    assert all(value not in sops["content"] for value in wanted.values())
    assert sops_source(sops).read() == wanted and not sops_source(sops).writable
    (tmp_path / "secrets.env").write_text(sops["content"])
    assert sops_source(sops, path=str(tmp_path / "secrets.env")).read() == wanted
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "plain.env", "secrets.env"], (
        "nothing decrypted is left"
    )


def test_each_failure_of_sops_is_said(sops: dict[str, str], tmp_path: Path) -> None:
    assert "no key of this host opens it" in refused(sops_source(sops, "other"))
    assert "no key of this host opens it" in refused(sops_source(sops, ""))
    lines = sops["content"].splitlines()
    first, second = (next(n for n, line in enumerate(lines) if line.startswith(name)) for name in ("JWT", "INTERNAL"))
    lines[first], lines[second] = lines[second], lines[first]
    assert "MAC mismatch" in refused(sops_source(sops, content="\n".join(lines) + "\n"))
    lines[first] = "INTERNAL_SERVICE_KEY=canary-in-clear"
    assert "did not encrypt" in refused(sops_source(sops, content="\n".join(lines) + "\n"))
    assert "the file cannot be read: No such file" in refused(sops_source(sops, path=str(tmp_path / "none.env")))
    assert "the program sops is not on this host" in refused(
        sops_source(sops, content=sops["content"], binary="sops-none")
    )
    plain = sops_source(sops, content="JWT_SECRET_KEY=canary")
    assert "no file that SOPS encrypted" in plain.problems()[0] and "canary" not in plain.problems()[0]


def test_a_kms_gets_its_credential_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "sops"
    show = "import json, os; print(json.dumps({k: v for k, v in os.environ.items() if k[:4] == 'AWS_'}))"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{show}"\n')
    program.chmod(0o755)
    credential = {"access_key_id": "a", "secret_access_key": "b"}
    source = Source("sops", {"content": "sops", "binary": str(program)}, credential)
    module = sys.modules[Source.__module__].MODULES["sops"]
    found = module.read(source.options, credential, 10)
    assert found["AWS_ACCESS_KEY_ID"] == "a" and found["AWS_SECRET_ACCESS_KEY"] == "b"


# --- all of them


def test_settings_that_cannot_work_are_all_named() -> None:
    assert NAMES == ("generated", "aws_secrets_manager", "file", "gcp_secret_manager", "hashi_vault", "sops")
    problems = Source("hashi_vault", {}, {}).problems()
    assert len(problems) == 3
    given: dict[str, Any] = {"url": "https://u", "path": "p"}
    assert Source("hashi_vault", {**given, "auth": "approle"}, {"role_id": "r"}).problems() == [
        "scutum_secrets_credential.secret_id is missing (auth approle)"
    ]
    assert "none of approle, cert, jwt, token" in Source("hashi_vault", {**given, "auth": "ldap"}, {}).problems()[0]
    assert Source("hashi_vault", given, {"token": "t"}).problems() == []
    assert len(Source("aws_secrets_manager", {}, {"access_key_id": "x"}).problems()) == 3
    assert len(Source("gcp_secret_manager", {}, {}).problems()) == 2
    wrong = {"path": "a", "content": "b", "format": "ini"}
    assert len(Source("sops", wrong, {"age_key": "canary", "password": "x"}).problems()) == 5
    unknown = Source(
        "hashi_vault", {**given, "mountpoint": "x", "version": "latest"}, {"token": "t", "password": "canary"}
    ).problems()
    assert unknown[0].startswith(
        "scutum_secrets_options.mountpoint is none of url, path, mount"
    ) and "canary" not in str(unknown)
    assert len(unknown) == 3 and unknown[2] == "scutum_secrets_options.version: a number, or nothing for the newest"
    assert Source("file", {}, {}).problems() == ["scutum_secrets_values is empty: source file takes the values from it"]


def test_what_a_client_throws_is_named_by_its_type_only(vault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*unused: Any) -> None:
        raise TypeError("canary: 'Response' object is not subscriptable")

    monkeypatch.setattr(sys.modules[Source.__module__].MODULES["hashi_vault"], "read", broken)
    assert "its answer cannot be used (TypeError)" in refused(vault_source(vault))


def test_a_pinned_version_is_known() -> None:
    assert Source("hashi_vault", {"version": 3}).pinned() == "version" and Source("hashi_vault", {}).pinned() == ""
    assert Source("gcp_secret_manager", {"version": "latest"}).pinned() == ""
    assert Source("aws_secrets_manager", {"version_stage": "AWSPENDING"}).pinned() == "version_stage"


def test_a_value_that_is_no_text_is_named() -> None:
    assert Source("file", {}, {**VALUES, "N": "x", "EMPTY": ""}).read() == {**VALUES, "N": "x"}
    wrong: dict[str, Any] = {**VALUES, "LIST": ["canary"], "YES": True}
    assert "LIST, YES is no text" in refused(Source("file", {}, wrong))
