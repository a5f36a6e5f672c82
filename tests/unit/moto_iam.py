# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""moto that enforces IAM, as a process of its own: `INITIAL_NO_AUTH_ACTION_COUNT=3 python moto_iam.py`.

That setting, after how many requests it begins, and its counter are a process's, so no other test sees them. It prints its address and
ends with its standard input.

moto checks signature, action and resource (by pattern) of a user's policies. Two things that AWS documents are added, both by moto's own
means: the condition StringLike on s3:prefix, and that HEAD shows a lock only to who may do s3:GetObjectRetention and s3:GetObjectLegalHold.
"""

from __future__ import annotations

import sys
from typing import Any

import flask
from moto.iam.access_control import IAMPolicyStatement
from moto.s3.exceptions import BucketAccessDeniedError
from moto.s3.responses import S3Response
from moto.server import ThreadedMotoServer

HIDDEN = {
    "GetObjectRetention": ("x-amz-object-lock-mode", "x-amz-object-lock-retain-until-date"),
    "GetObjectLegalHold": ("x-amz-object-lock-legal-hold",),
}
_head = S3Response.head_object


def _conditions(self: IAMPolicyStatement, unused: dict[str, str] | None) -> bool:
    wanted = self._statement.get("Condition", {}).get("StringLike", {}).get("s3:prefix")
    return wanted is None or self._match(wanted, flask.request.args.get("prefix", "")) is not None


def _shown(self: S3Response, bucket_name: str, query: dict[str, Any], key_name: str, headers: dict[str, Any]) -> Any:
    status, found, body = _head(self, bucket_name, query, key_name, headers)
    for action, names in HIDDEN.items():
        self.data["Action"] = action
        try:
            self._authenticate_and_authorize_s3_action(bucket_name=bucket_name, key_name=key_name)
        except BucketAccessDeniedError:
            found = {name: value for name, value in found.items() if name not in names}
    return status, found, body


if __name__ == "__main__":
    IAMPolicyStatement._check_conditions = _conditions  # type: ignore[method-assign]
    S3Response.head_object = _shown  # type: ignore[method-assign]
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    print("http://{}:{}".format(*server.get_host_and_port()), flush=True)
    sys.stdin.read()
