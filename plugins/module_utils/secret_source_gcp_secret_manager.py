# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets in Google Cloud Secret Manager, through google-cloud-secret-manager, the official client, over REST.

Options: `project`; `secret` (of one JSON secret with all keys) or `prefix` (one secret a key, named prefix + KEY); `version` (of a JSON
secret; default latest), `endpoint` (host or URL of another endpoint, a regional one for instance). Credential: `service_account` (the
JSON text of its key), or none: the client then asks the instance (the better way, with nothing at rest). Least privilege:
`roles/secretmanager.secretAccessor` on the secrets; for a rotation `secretmanager.secretVersionAdder` as well; with `prefix` also
`secretmanager.secrets.list` on the project.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator
from typing import Any

from .secret_source_common import document, one_of, refusal

OPTIONS = ("project", "secret", "prefix", "version", "endpoint")
CREDENTIAL = ("service_account",)
# How many versions back a value is looked for.
_BACK = 3


def where(options: dict[str, Any]) -> str:
    """The place, for people."""
    return f"gcp_secret_manager {options.get('project')}, {options.get('secret') or str(options.get('prefix')) + '*'}"


def problems(options: dict[str, Any], credential: dict[str, str]) -> list[str]:
    """What is wrong with the settings, before anything is asked."""
    found = [] if options.get("project") else ["scutum_secrets_options.project is missing"]
    found += one_of(options, "secret")
    if credential.get("service_account"):
        try:
            fields = json.loads(credential["service_account"])
            lost = [name for name in ("client_email", "private_key", "token_uri") if not fields.get(name)]
        except (ValueError, AttributeError):
            lost = ["a JSON object"]
        if lost:
            found.append(
                f"scutum_secrets_credential.service_account is no key of a service account: no {', '.join(lost)}"
            )
    return found


def read(options: dict[str, Any], credential: dict[str, str], timeout: float) -> dict[str, Any]:
    """The keys and values."""
    with _client(options, credential, timeout) as client:
        if options.get("prefix"):
            names = client.names(str(options["prefix"]))
            if not names:
                raise refusal(
                    where(options),
                    "there is no secret with that prefix",
                    "check project and prefix: gcloud secrets list",
                )
            return {name[len(str(options["prefix"])) :]: client.access(name)[0] for name in names}
        version = str(options.get("version") or "latest")
        return document(where(options), client.access(str(options["secret"]), version)[0])


def older(options: dict[str, Any], credential: dict[str, str], timeout: float) -> list[dict[str, Any]]:
    """What the versions before the newest held, newest first; those that cannot be read any more are left out."""
    with _client(options, credential, timeout) as client:
        if not options.get("prefix"):
            return [document(where(options), text) for text in client.before(str(options["secret"]))]
        prefix = str(options["prefix"])
        texts = {name[len(prefix) :]: client.before(name) for name in client.names(prefix)}
        return [{key: held[back] for key, held in texts.items() if len(held) > back} for back in range(_BACK)]


def write(options: dict[str, Any], credential: dict[str, str], timeout: float, changes: dict[str, str]) -> None:
    """Add new versions; the old ones stay enabled."""
    with _client(options, credential, timeout) as client:
        if options.get("prefix"):
            for key, value in sorted(changes.items()):
                client.add(f"{options['prefix']}{key}", value)
        else:
            held = document(where(options), client.access(str(options["secret"]))[0])
            client.add(str(options["secret"]), json.dumps({**held, **changes}))


class _Client:
    """The few calls that are needed, each with the time-out and without retries of its own."""

    def __init__(self, client: Any, project: str, timeout: float) -> None:
        self._client = client
        self._parent = f"projects/{project}"
        self._how = {"timeout": timeout, "retry": None}

    def names(self, prefix: str) -> list[str]:
        request = {"parent": self._parent, "filter": f"name:{prefix}"}
        names = [item.name.rsplit("/", 1)[1] for item in self._client.list_secrets(request=request, **self._how)]
        # The service's filter looks for the text anywhere in the name.
        return sorted(name for name in names if name.startswith(prefix))

    def access(self, name: str, version: str = "latest") -> tuple[str, int]:
        """Text and number of a version."""
        place = f"{self._parent}/secrets/{name}/versions/{version}"
        answer = self._client.access_secret_version(request={"name": place}, **self._how)
        return str(answer.payload.data.decode()), int(answer.name.rsplit("/", 1)[1])

    def before(self, name: str) -> list[str]:
        """Texts of the versions before the newest, by their numbers: to list them would need another permission."""
        import google.api_core.exceptions as refusals

        newest = self.access(name)[1]
        found = []
        for number in range(newest - 1, max(newest - 1 - _BACK, 0), -1):
            with contextlib.suppress(refusals.NotFound, refusals.BadRequest):
                found.append(self.access(name, str(number))[0])
        return found

    def add(self, name: str, text: str) -> None:
        place = f"{self._parent}/secrets/{name}"
        self._client.add_secret_version(request={"parent": place, "payload": {"data": text.encode()}}, **self._how)


@contextlib.contextmanager
def _client(options: dict[str, Any], credential: dict[str, str], timeout: float) -> Iterator[_Client]:
    """A client whose failures are said in our words."""
    import google.api_core.exceptions as refusals
    import google.auth.exceptions
    import requests
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.secretmanager_v1 import SecretManagerServiceClient
    from google.cloud.secretmanager_v1.services.secret_manager_service.transports import (
        SecretManagerServiceRestTransport,
    )
    from google.oauth2 import service_account

    refuse = functools.partial(refusal, where(options))

    endpoint = str(options.get("endpoint") or "https://secretmanager.googleapis.com")
    try:
        held: Any = None
        if credential.get("service_account"):
            held = service_account.Credentials.from_service_account_info(
                json.loads(credential["service_account"]), scopes=SecretManagerServiceRestTransport.AUTH_SCOPES
            )
        elif endpoint.startswith("http://"):
            # Only an emulator speaks it, and a real credential must not be sent in clear.
            held = AnonymousCredentials()
        transport = SecretManagerServiceRestTransport(host=endpoint, credentials=held)
        yield _Client(SecretManagerServiceClient(transport=transport), str(options["project"]), timeout)
    except refusals.NotFound as error:
        raise refuse(
            "there is no such secret or version (404)", "check project and name: gcloud secrets list"
        ) from error
    except (refusals.Forbidden, refusals.Unauthorized) as error:
        raise refuse(
            f"the credential may not do that ({error.code})", "docs/roles/secrets.md has the roles that it needs"
        ) from error
    except refusals.BadRequest as error:
        if "FAILED_PRECONDITION" in getattr(error.response, "text", ""):
            raise refuse("its version is disabled or destroyed", "enable it, or add a version") from error
        raise refuse("the service does not understand the request (400)", "check project, name and version") from error
    except (refusals.GatewayTimeout, requests.exceptions.Timeout) as error:
        raise refuse(f"no answer within {timeout:.0f} s", "check the host's way to it") from error
    except refusals.GoogleAPICallError as error:
        raise refuse(f"{type(error).__name__} ({error.code})", "try again; Google's status page says more") from error
    except google.auth.exceptions.DefaultCredentialsError as error:
        raise refuse(
            "there is no credential on this host",
            "give the instance a service account, or set scutum_secrets_credential",
        ) from error
    except (google.auth.exceptions.RefreshError, google.auth.exceptions.InvalidOperation) as error:
        raise refuse(
            "the credential is refused (401)", "make a new key for the service account, or check the host's clock"
        ) from error
    except (
        google.auth.exceptions.GoogleAuthError,
        requests.exceptions.RequestException,
        refusals.GoogleAPIError,
    ) as error:
        raise refuse(f"it cannot be reached ({type(error).__name__})", "check the host's way to it") from error
    except ValueError as error:
        # A private key that is no key; its text is in the error, which is not shown.
        raise refuse(f"{type(error).__name__}", "check scutum_secrets_credential and the endpoint") from None
