"""Issue a licence that the stand-in accepts, signed with the TEST-ONLY key: issue_licence.py --tier business --days 365."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jwt

RETENTION = {"trial": 30, "team": 90, "business": 365, "enterprise": 2555}
KEY = Path(__file__).resolve().parent / "licences/test-private.pem"


def issue(
    tier: str | None,
    days: float,
    email: str | None = "ops@example.com",
    company: str = "Example",
    subject: str = "c-1",
    **changes: Any,
) -> str:
    """A signed licence; negative days make one that has expired; changes are claims (None: left out)."""
    now = time.time()
    claims = {
        "sub": subject,
        "email": email,
        "company": company,
        "tier": tier,
        "iat": int(min(now, now + days * 86400) - 60),
        "exp": int(now + days * 86400),
        "features": {"audit_retention_days": RETENTION.get(tier or "", 30)},
    }
    claims |= changes
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, KEY.read_text(), algorithm="EdDSA")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tier", choices=sorted(RETENTION), default="business")
    parser.add_argument("--days", type=float, default=365)
    parser.add_argument("--email", default="ops@example.com")
    parser.add_argument("--company", default="Example")
    parser.add_argument("--subject", default="c-1")
    given = parser.parse_args()
    print(issue(given.tier, given.days, given.email, given.company, given.subject))


if __name__ == "__main__":
    main()
