# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets in HashiCorp Vault or OpenBao, through hvac, the official client.

Options: `url`, `path` (of the secret, without the mount), `mount` (default secret), `kv_version` (2 or 1), `version` (of a KV 2
secret; default the newest), `namespace`, `ca_file`, `auth` (token, approle, jwt, cert) with `auth_mount`, `role`, `cert_file`,
`key_file`. Credential by method: `token`; `role_id` and `secret_id`; `jwt`; none for cert. Least privilege: `read` on the one path.
"""

from __future__ import annotations

from typing import Any

from .errors import ScutumError

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
    if str(options.get("kv_version", 2)) not in ("1", "2"):
        found.append("scutum_secrets_options.kv_version: 1 or 2")
    return found


def read(options: dict[str, Any], credential: dict[str, str], timeout: float) -> dict[str, Any]:
    """The keys and values of the secret, in one read."""
    import hvac
    import hvac.exceptions
    import requests

    mount, path = str(options.get("mount", "secret")), str(options["path"])
    where = f"hashi_vault {options['url']}, {mount}/{path}"

    def refuse(what: str, next_step: str) -> ScutumError:
        return ScutumError(f"{where}: {what}", left="nothing was changed", next_step=next_step)

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
        if str(options.get("kv_version", 2)) == "1":
            answer = client.secrets.kv.v1.read_secret(path=path, mount_point=mount)
            return dict(answer["data"])
        version = int(options["version"]) if options.get("version") else None
        answer = client.secrets.kv.v2.read_secret_version(
            path=path, mount_point=mount, version=version, raise_on_deleted_version=True
        )
        return dict(answer["data"]["data"])
    except hvac.exceptions.VaultDown as error:
        raise refuse("it is sealed (503)", "unseal it: vault operator unseal") from error
    except hvac.exceptions.InvalidPath as error:
        raise refuse(
            "there is no such secret (404)", "check mount, path and kv_version; vault kv get says the same"
        ) from error
    except (hvac.exceptions.Forbidden, hvac.exceptions.Unauthorized) as error:
        raise refuse(
            "the credential may not read it (403)",
            f"give its policy read on {mount}/data/{path}, or renew the credential",
        ) from error
    except requests.exceptions.Timeout as error:
        raise refuse(f"no answer within {timeout:.0f} s", "check the host's way to it") from error
    except requests.exceptions.RequestException as error:
        raise refuse(f"it cannot be reached ({type(error).__name__})", "check url and the host's way to it") from error
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
