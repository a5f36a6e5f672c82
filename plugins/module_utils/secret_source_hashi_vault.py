# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets in HashiCorp Vault or OpenBao, through hvac, the official client.

Options: `url`, `path` (of the secret, without the mount), `mount` (default secret), `kv_version` (2 or 1), `version` (of a KV 2
secret; default the newest), `namespace`, `ca_file`, `auth` (token, approle, jwt, cert) with `auth_mount`, `role`, `cert_file`,
`key_file`. Credential by method: `token`; `role_id` and `secret_id`; `jwt`; none for cert. Least privilege: `read` on the one path;
for a rotation `update` as well.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from .secret_source_common import refusal

OPTIONS = (
    *("url", "path", "mount", "kv_version", "version", "namespace", "ca_file"),
    *("auth", "auth_mount", "role", "cert_file", "key_file"),
)
CREDENTIAL = ("token", "role_id", "secret_id", "jwt")
METHODS = {"token": ("token",), "approle": ("role_id", "secret_id"), "jwt": ("jwt",), "cert": ()}


def problems(options: dict[str, Any], credential: dict[str, str]) -> list[str]:
    """What is wrong with the settings, before anything is asked."""
    found = [f"scutum_secrets_options.{name} is missing" for name in ("url", "path") if not options.get(name)]
    method = str(options.get("auth", "token"))
    if method not in METHODS:
        return [*found, f"scutum_secrets_options.auth: {method} is none of {', '.join(sorted(METHODS))}"]
    found += [
        f"scutum_secrets_credential.{name} is missing (auth {method})"
        for name in METHODS[method]
        if not credential.get(name)
    ]
    if method == "cert":
        found += [
            f"scutum_secrets_options.{name} is missing (auth cert)"
            for name in ("cert_file", "key_file")
            if not options.get(name)
        ]
    if options.get("url") and not str(options["url"]).startswith(("http://", "https://")):
        found.append("scutum_secrets_options.url: it begins with https://")
    if options.get("version") and not str(options["version"]).isdecimal():
        found.append("scutum_secrets_options.version: a number, or nothing for the newest")
    if str(options.get("kv_version", 2)) not in ("1", "2"):
        found.append("scutum_secrets_options.kv_version: 1 or 2")
    return found


def where(options: dict[str, Any]) -> str:
    """The place, for people."""
    return f"hashi_vault {options.get('url')}, {_mount(options)}/{options.get('path')}"


def read(options: dict[str, Any], credential: dict[str, str], timeout: float) -> dict[str, Any]:
    """The keys and values of the secret, in one read."""
    with _client(options, credential, timeout) as client:
        if _first(options):
            return dict(client.secrets.kv.v1.read_secret(path=options["path"], mount_point=_mount(options))["data"])
        return _version(options, client, int(options["version"]) if options.get("version") else None)[0]


def older(options: dict[str, Any], credential: dict[str, str], timeout: float) -> list[dict[str, Any]]:
    """What the three versions before held, newest first; KV 1 has none."""
    if _first(options):
        return []
    import hvac.exceptions

    found = []
    with _client(options, credential, timeout) as client:
        newest = _version(options, client, None)[1]
        for number in range(newest - 1, max(newest - 4, 0), -1):
            with contextlib.suppress(hvac.exceptions.InvalidPath):
                found.append(_version(options, client, number)[0])
    return found


def write(options: dict[str, Any], credential: dict[str, str], timeout: float, changes: dict[str, str]) -> None:
    """Write a new version of the whole secret. It fails when somebody else writes at the same time (check-and-set)."""
    with _client(options, credential, timeout) as client:
        place = {"path": options["path"], "mount_point": _mount(options)}
        if _first(options):
            held = dict(client.secrets.kv.v1.read_secret(**place)["data"])
            client.secrets.kv.v1.create_or_update_secret(secret={**held, **changes}, **place)
        else:
            held, number = _version(options, client, None)
            client.secrets.kv.v2.create_or_update_secret(secret={**held, **changes}, cas=number, **place)


def keeps_versions(options: dict[str, Any]) -> bool:
    """Whether it keeps what a write replaces."""
    return not _first(options)


def _mount(options: dict[str, Any]) -> str:
    return str(options.get("mount") or "secret")


def _first(options: dict[str, Any]) -> bool:
    return str(options.get("kv_version", 2)) == "1"


def _version(options: dict[str, Any], client: Any, number: int | None) -> tuple[dict[str, Any], int]:
    """Content and number of a version of a KV 2 secret; None is the newest."""
    answer = client.secrets.kv.v2.read_secret_version(
        path=options["path"], mount_point=_mount(options), version=number, raise_on_deleted_version=True
    )
    return dict(answer["data"]["data"]), int(answer["data"]["metadata"]["version"])


@contextlib.contextmanager
def _client(options: dict[str, Any], credential: dict[str, str], timeout: float) -> Iterator[Any]:
    """A client that is logged in, and whose failures are said in our words."""
    import hvac
    import hvac.exceptions
    import requests

    refuse = functools.partial(refusal, where(options))

    certificate = (options["cert_file"], options["key_file"]) if options.get("cert_file") else None
    client = hvac.Client(
        url=options["url"],
        namespace=options.get("namespace"),
        verify=options.get("ca_file") or True,
        cert=certificate,
        timeout=timeout,
    )
    try:
        _log_in(client, options, credential)
        yield client
    except hvac.exceptions.VaultDown as error:
        raise refuse("it is sealed (503)", "unseal it: vault operator unseal") from error
    except hvac.exceptions.InvalidPath as error:
        raise refuse(
            "there is no such secret (404)", "check mount, path and kv_version; vault kv get says the same"
        ) from error
    except (hvac.exceptions.Forbidden, hvac.exceptions.Unauthorized) as error:
        raise refuse(
            "the credential may not do that (403)",
            f"give its policy read on {_mount(options)}/data/{options['path']} (a rotation needs update, too), or renew it",
        ) from error
    except hvac.exceptions.InvalidRequest as error:
        raise refuse("it refuses the request (400)", "check auth and credential; Vault's own log says more") from error
    except requests.exceptions.Timeout as error:
        raise refuse(f"no answer within {timeout:.0f} s", "check the host's way to it") from error
    except requests.exceptions.RequestException as error:
        raise refuse(f"it cannot be reached ({type(error).__name__})", "check url and the host's way to it") from error
    except OSError as error:
        raise refuse(str(error), "check ca_file, cert_file and key_file, on the host") from error
    except hvac.exceptions.VaultError as error:
        raise refuse(f"{type(error).__name__}", "look at Vault's own log") from error


def _log_in(client: Any, options: dict[str, Any], credential: dict[str, str]) -> None:
    method = str(options.get("auth", "token"))
    place = {"mount_point": options["auth_mount"]} if options.get("auth_mount") else {}
    if method == "token":
        client.token = credential["token"]
    elif method == "approle":
        client.auth.approle.login(role_id=credential["role_id"], secret_id=credential["secret_id"], **place)
    elif method == "jwt":
        path = {"path": options["auth_mount"]} if options.get("auth_mount") else {}
        client.auth.jwt.jwt_login(role=options.get("role"), jwt=credential["jwt"], **path)
    else:
        client.auth.cert.login(
            name=options.get("role", ""), cert_pem=options["cert_file"], key_pem=options["key_file"], **place
        )
