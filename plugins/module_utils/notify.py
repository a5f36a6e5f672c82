# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Telling people: mail and webhook, for every job on the host that has something to say."""

from __future__ import annotations

import json
import os
import smtplib
import socket
import ssl
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any

from . import http_client as http
from .errors import ScutumError
from .files import read_text

# Below the installation's private directory; written by `schedule.ensure`.
FILE = "notifications.json"
# Seconds for which a webhook is tried.
DEADLINE = 20.0


def settings(private: str) -> dict[str, Any]:
    """What is configured: `mail` (host, port, sender, to, starttls, username, password) and `webhook` (url, headers)."""
    text = read_text(os.path.join(private, FILE))
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise ScutumError(f"{private}/{FILE} is not JSON: {error}", next_step="run playbooks/license.yml") from error
    return dict(found)


def ways(configured: dict[str, Any]) -> set[str]:
    """The ways that are configured: `mail`, `webhook`."""
    return {way for way, key in (("mail", "to"), ("webhook", "url")) if (configured.get(way) or {}).get(key)}


def send(
    configured: dict[str, Any], subject: str, text: str, details: dict[str, Any], done: list[str], page: str = ""
) -> None:
    """Say something by every way that is configured.

    Args:
        details: the webhook's body, beside `subject`, `text` and `host`.
        done: ways by which it has been said already; each way that succeeds is added, so that a retry sends nothing twice.
        page: the same as HTML, for mail.

    Raises:
        ScutumError: a way failed, with its reason; the others were tried all the same.
    """
    problems = []
    for way in sorted(ways(configured) - set(done)):
        try:
            if way == "mail":
                _mail(configured["mail"], subject, text, page)
            else:
                body = {"source": "scutum.ops", "host": socket.getfqdn(), "subject": subject, "text": text, **details}
                _post(configured["webhook"], body)
            done.append(way)
        except (OSError, smtplib.SMTPException, ScutumError, ValueError) as error:
            problems.append(f"{way}: {type(error).__name__}: {str(error)[:200]}")
    if problems:
        raise ScutumError(
            f"not told: {subject} ({'; '.join(problems)})",
            left="it is tried again at the job's next run",
            next_step="correct scutum_notify_… and run the playbook, or repair the way",
        )


def _mail(mail: dict[str, Any], subject: str, text: str, page: str) -> None:
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = subject, mail["sender"], ", ".join(mail["to"])
    message["Date"], message["Message-ID"] = formatdate(localtime=True), make_msgid()
    message.set_content(text)
    if page:
        message.add_alternative(page, subtype="html")
    with smtplib.SMTP(mail["host"], int(mail["port"]), timeout=20) as server:
        if mail.get("starttls"):
            server.starttls(context=ssl.create_default_context())
        if mail.get("username"):
            server.login(mail["username"], mail["password"])
        server.send_message(message)


def _post(webhook: dict[str, Any], body: dict[str, Any]) -> None:
    # The URL and the headers may be secrets: no failure repeats them.
    try:
        headers = {name: str(value).strip() for name, value in (webhook.get("headers") or {}).items()}
        answer = http.request("POST", str(webhook["url"]).strip(), body=body, headers=headers, deadline=DEADLINE)
    except http.NoAnswer as error:
        raise ScutumError("no answer from the host of scutum_notify_webhook_url") from error
    except ScutumError as error:
        raise ScutumError(
            "scutum_notify_webhook_url or _headers is not valid: http(s)://host/path is needed"
        ) from error
    if not 200 <= answer.status < 300:
        hint = "; a redirect is not followed, name its target" if 300 <= answer.status < 400 else ""
        raise ScutumError(f"answered {answer.status}{hint}")
