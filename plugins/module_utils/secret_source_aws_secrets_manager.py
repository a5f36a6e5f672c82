# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets in AWS Secrets Manager, through boto3, the official client.

Options: `region`; `secret_id` (name or ARN of one JSON secret with all keys) or `prefix` (one secret a key, named prefix + KEY);
`version_stage` (default AWSCURRENT), `endpoint_url`. Credential: `access_key_id`, `secret_access_key`, `session_token`, or none:
boto3 then asks the instance (the better way, with nothing at rest). Least privilege: `secretsmanager:GetSecretValue` on the one secret;
with `prefix` also `BatchGetSecretValue` and `ListSecrets`; for a rotation `PutSecretValue`.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator
from typing import Any

from .secret_source_common import document, one_of, refusal

# What the service calls its refusals, in words (API reference, "Errors").
_DENIED = ("AccessDeniedException", "UnrecognizedClientException", "InvalidClientTokenId", "ExpiredTokenException")
_CURRENT, _PREVIOUS = "AWSCURRENT", "AWSPREVIOUS"
OPTIONS = ("region", "secret_id", "prefix", "version_stage", "endpoint_url")
CREDENTIAL = ("access_key_id", "secret_access_key", "session_token")


def where(options: dict[str, Any]) -> str:
    """The place, for people."""
    return (
        f"aws_secrets_manager {options.get('region')}, {options.get('secret_id') or str(options.get('prefix')) + '*'}"
    )


def problems(options: dict[str, Any], credential: dict[str, str]) -> list[str]:
    """What is wrong with the settings, before anything is asked."""
    found = [] if options.get("region") else ["scutum_secrets_options.region is missing"]
    found += one_of(options, "secret_id")
    if bool(credential.get("access_key_id")) != bool(credential.get("secret_access_key")):
        found.append("scutum_secrets_credential: access_key_id and secret_access_key go together")
    return found


def read(options: dict[str, Any], credential: dict[str, str], timeout: float) -> dict[str, Any]:
    """The keys and values, in one read."""
    return _read(options, credential, timeout, str(options.get("version_stage") or _CURRENT))


def older(options: dict[str, Any], credential: dict[str, str], timeout: float) -> list[dict[str, Any]]:
    """What the secrets held before: the stage AWSPREVIOUS."""
    with _client(options, credential, timeout) as client:
        if options.get("prefix"):
            return [_one_a_key(options, client, _PREVIOUS)]
        # A secret that was never changed has no such stage.
        with contextlib.suppress(client.exceptions.ResourceNotFoundException):
            return [_document(options, client, _PREVIOUS)]
    return []


def write(options: dict[str, Any], credential: dict[str, str], timeout: float, changes: dict[str, str]) -> None:
    """Put new versions; the service moves the stage AWSPREVIOUS to the old ones."""
    with _client(options, credential, timeout) as client:
        if options.get("prefix"):
            for key, value in sorted(changes.items()):
                client.put_secret_value(SecretId=f"{options['prefix']}{key}", SecretString=value)
        else:
            held = _document(options, client, _CURRENT)
            client.put_secret_value(SecretId=options["secret_id"], SecretString=json.dumps({**held, **changes}))


def _read(options: dict[str, Any], credential: dict[str, str], timeout: float, stage: str) -> dict[str, Any]:
    with _client(options, credential, timeout) as client:
        return _one_a_key(options, client, stage) if options.get("prefix") else _document(options, client, stage)


def _document(options: dict[str, Any], client: Any, stage: str) -> dict[str, Any]:
    text = client.get_secret_value(SecretId=options["secret_id"], VersionStage=stage).get("SecretString")
    return document(where(options), text)


def _one_a_key(options: dict[str, Any], client: Any, stage: str) -> dict[str, Any]:
    prefix = str(options["prefix"])
    found: dict[str, Any] = {}
    if stage == _CURRENT:
        # At most 20 a page.
        request: dict[str, Any] = {"Filters": [{"Key": "name", "Values": [prefix]}]}
        while True:
            page = client.batch_get_secret_value(**request)
            found.update({item["Name"]: item.get("SecretString") for item in page["SecretValues"]})
            # A name or an ARN, which ends in the name.
            refused = [item for item in page.get("Errors", []) if prefix in item.get("SecretId", "")]
            if refused:
                raise refusal(
                    where(options),
                    f"{refused[0]['SecretId']}: {refused[0].get('ErrorCode')}",
                    "allow secretsmanager:GetSecretValue on it",
                )
            if not page.get("NextToken"):
                break
            request["NextToken"] = page["NextToken"]
    else:
        names = [
            item["Name"]
            for page in client.get_paginator("list_secrets").paginate(Filters=[{"Key": "name", "Values": [prefix]}])
            for item in page["SecretList"]
        ]
        for name in names:
            with contextlib.suppress(client.exceptions.ResourceNotFoundException):
                found[name] = client.get_secret_value(SecretId=name, VersionStage=stage).get("SecretString")
    if not found and stage == _CURRENT:
        raise refusal(
            where(options),
            "there is no secret with that prefix",
            "check region, account and prefix: aws secretsmanager list-secrets",
        )
    return {name[len(prefix) :]: text for name, text in found.items() if name.startswith(prefix)}


@contextlib.contextmanager
def _client(options: dict[str, Any], credential: dict[str, str], timeout: float) -> Iterator[Any]:
    """A client whose failures are said in our words."""
    import boto3
    import botocore.config
    import botocore.exceptions

    refuse = functools.partial(refusal, where(options))

    config = botocore.config.Config(
        connect_timeout=timeout, read_timeout=timeout, retries={"total_max_attempts": 2, "mode": "standard"}
    )
    try:
        yield boto3.client(
            "secretsmanager",
            region_name=options["region"],
            endpoint_url=options.get("endpoint_url"),
            aws_access_key_id=credential.get("access_key_id"),
            aws_secret_access_key=credential.get("secret_access_key"),
            aws_session_token=credential.get("session_token"),
            config=config,
        )
    except botocore.exceptions.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code == "ResourceNotFoundException":
            raise refuse("there is no such secret, or no such version stage (404)", "check region and name") from error
        if code in _DENIED or status == 403:
            raise refuse(
                f"the credential may not do that ({code})",
                "docs/roles/secrets.md has the policy that it needs",
            ) from error
        raise refuse(f"{code} ({status})", "try again; the AWS health page says more") from error
    except botocore.exceptions.NoCredentialsError as error:
        raise refuse(
            "there is no credential on this host", "give the instance a role, or set scutum_secrets_credential"
        ) from error
    except (botocore.exceptions.ConnectTimeoutError, botocore.exceptions.ReadTimeoutError) as error:
        raise refuse(f"no answer within {timeout:.0f} s", "check the host's way to it") from error
    except (botocore.exceptions.HTTPClientError, botocore.exceptions.ConnectionError) as error:
        raise refuse(f"it cannot be reached ({type(error).__name__})", "check the host's way to it") from error
    except botocore.exceptions.BotoCoreError as error:
        raise refuse(f"{type(error).__name__}", "check region, endpoint_url and the credential") from error
