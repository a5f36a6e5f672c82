# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets in a file that SOPS encrypted, decrypted by the `sops` program on the host.

Options: `path` (of the encrypted file on the host) or `content` (its text: the file is committed beside the inventory, and a lookup
brings it), `format` (dotenv, json, yaml; default dotenv), `binary` (default sops, from the PATH). Credential: `age_key` (an age
identity), or `access_key_id`, `secret_access_key`, `session_token` for a KMS recipient, or none: sops then looks where it always
does (/root/.config/sops/age/keys.txt, the instance's role). Least privilege: one identity a host, a recipient of the one file;
`kms:Decrypt` on the one key.

It is read only: who changes the file encrypts it and commits it.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from typing import Any

from .secret_source_common import refusal

_ENVIRONMENT = {
    "age_key": "SOPS_AGE_KEY",
    "access_key_id": "AWS_ACCESS_KEY_ID",
    "secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "session_token": "AWS_SESSION_TOKEN",
}
OPTIONS = ("path", "content", "format", "binary")
CREDENTIAL = tuple(_ENVIRONMENT)
# Exit codes of the program (getsops/sops: cmd/sops/codes/codes.go).
_NO_KEY, _MAC, _TREE = 128, 51, 25


def where(options: dict[str, Any]) -> str:
    """The place, for people."""
    return f"sops {options.get('path') or 'content of scutum_secrets_options'}"


def problems(options: dict[str, Any], credential: dict[str, str]) -> list[str]:
    """What is wrong with the settings, before anything is asked."""
    found = []
    if bool(options.get("path")) == bool(options.get("content")):
        found.append(
            "scutum_secrets_options: one of path (a file on the host) and content (of a file beside the inventory) is needed"
        )
    if str(options.get("format", "dotenv")) not in ("dotenv", "json", "yaml"):
        found.append("scutum_secrets_options.format: dotenv, json or yaml")
    if options.get("content") and not ("ENC[" in str(options["content"]) and "sops" in str(options["content"])):
        found.append("scutum_secrets_options.content is no file that SOPS encrypted: it would lie on the host in clear")
    key = credential.get("age_key", "")
    if key and not any(line.startswith("AGE-") for line in key.splitlines()):
        found.append("scutum_secrets_credential.age_key is no age identity: it begins with AGE-SECRET-KEY-")
    return found


def read(options: dict[str, Any], credential: dict[str, str], timeout: float) -> dict[str, Any]:
    """The keys and values of the file; what is decrypted stays in memory."""

    refuse = functools.partial(refusal, where(options))

    program = shutil.which(str(options.get("binary") or "sops"))
    if program is None:
        raise refuse(
            "the program sops is not on this host", "install it (getsops/sops, releases), or set options.binary"
        )
    try:
        given = options.get("content") or _text(str(options["path"]))
    except OSError as error:
        raise refuse(f"the file cannot be read: {error.strerror}", "check path, on the host") from error
    except UnicodeError as error:
        raise refuse("the file is no text", "check path and format") from error
    environment = {
        **os.environ,
        **{_ENVIRONMENT[name]: value for name, value in credential.items() if value},
    }
    # Through a pipe for both ways: what lies on the host is what was encrypted.
    command = [program, "--decrypt", "--input-type", str(options.get("format", "dotenv")), "--output-type", "json"]
    try:
        done = subprocess.run(
            [*command, "/dev/stdin"], input=str(given), env=environment, capture_output=True, text=True,
            timeout=max(timeout, 10), check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise refuse(f"sops gave no answer within {timeout:.0f} s", "check the host's way to the KMS") from error
    if done.returncode == _NO_KEY:
        raise refuse(
            "no key of this host opens it (wrong age key, or a KMS that refuses)",
            "make the host's key a recipient (sops updatekeys), or correct scutum_secrets_credential.age_key",
        )
    if done.returncode == _MAC:
        raise refuse("it was changed by something else than sops (MAC mismatch)", "take it from version control again")
    if done.returncode == _TREE:
        raise refuse(
            "it holds a value that sops did not encrypt, or that was changed since", "encrypt it anew with sops"
        )
    if done.returncode != 0:
        # Its own words may hold a line of the file.
        raise refuse(f"sops ended with exit code {done.returncode}", "run sops decrypt on it by hand, it says why")
    try:
        return dict(json.loads(done.stdout))
    except (TypeError, ValueError) as error:
        raise refuse("what sops printed is no JSON object", "check format: dotenv, json or yaml") from error


def _text(path: str) -> str:
    with open(path, encoding="utf-8") as handle:
        return handle.read()
