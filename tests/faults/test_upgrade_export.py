"""What was written since a backup, against a real Postgres: what traffic wrote comes over, all else is found and exported."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import upgrade_export
from ansible_collections.scutum.ops.plugins.module_utils.database import Database
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from world import USER, Case, World

LIVE, RESTORED = "upgraded", "brought_back"
EVERY = "SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM (SELECT id, actor_id, action, changes, timestamp FROM audit_logs) t"
SPEND = """CREATE TABLE "LiteLLM_SpendLogs" (request_id text PRIMARY KEY, spend float8 NOT NULL DEFAULT 0,
  "startTime" timestamp(3) NOT NULL DEFAULT now())"""

# As alembic 001 makes it.
REQUESTS = """CREATE TABLE request_logs (id bigserial PRIMARY KEY, model varchar(255), status int, latency_ms int,
  created_at timestamptz DEFAULT current_timestamp)"""
# As it is after its conversion: the sequence belongs to no column any more.
MONTHS = """CREATE SEQUENCE "Request logs"; CREATE TABLE request_logs (id bigint NOT NULL DEFAULT nextval('"Request logs"'::regclass),
  model varchar(255), status int, latency_ms int, created_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (id, created_at))
  PARTITION BY RANGE (created_at); CREATE TABLE request_logs_rest PARTITION OF request_logs DEFAULT"""
ALWAYS = REQUESTS.replace("bigserial", "int GENERATED ALWAYS AS IDENTITY")
# A few of LiteLLM's, with columns of its schema.prisma.
LITELLM = """
CREATE TABLE "LiteLLM_VerificationToken" (token text PRIMARY KEY, key_alias text, spend float8 NOT NULL DEFAULT 0, max_budget float8,
  models text[], model_spend jsonb NOT NULL DEFAULT '{}', budget_reset_at timestamp(3), last_active timestamp(3),
  updated_at timestamp(3) DEFAULT now());
CREATE TABLE "LiteLLM_TeamMembership" (user_id text, team_id text, spend float8 NOT NULL DEFAULT 0, total_spend float8 NOT NULL DEFAULT 0,
  budget_id text, PRIMARY KEY (user_id, team_id));
CREATE TABLE "LiteLLM_EndUserTable" (user_id text PRIMARY KEY, alias text, spend float8 NOT NULL DEFAULT 0, budget_id text,
  blocked boolean NOT NULL DEFAULT false);
CREATE TABLE "LiteLLM_DailyUserSpend" (id text PRIMARY KEY, user_id text, date text NOT NULL, spend float8 NOT NULL DEFAULT 0,
  api_requests bigint NOT NULL DEFAULT 0, updated_at timestamp(3) NOT NULL DEFAULT now(), UNIQUE (user_id, date));
CREATE TABLE "LiteLLM_DailyPolicyMetrics" (policy_id text, date text, passed_count bigint DEFAULT 0, PRIMARY KEY (policy_id, date));
INSERT INTO "LiteLLM_VerificationToken"(token, key_alias, max_budget, models, updated_at)
  SELECT 'k' || i, 'alias', 10, ARRAY['a', 'b'], '2026-01-01' FROM generate_series(1, 5) i;
INSERT INTO "LiteLLM_TeamMembership"(user_id, team_id) SELECT 'u' || i, 't' || j FROM generate_series(1, 3) i, generate_series(1, 3) j;
INSERT INTO "LiteLLM_EndUserTable"(user_id, spend) VALUES ('e1', 1);
INSERT INTO "LiteLLM_DailyUserSpend"(id, user_id, date, spend, updated_at) VALUES ('d1', 'u1', '2026-01-01', 1, '2026-01-01');
INSERT INTO "LiteLLM_DailyPolicyMetrics" VALUES ('p', '2026-01-01', 1);
"""
# What completions change there.
TRAFFIC = """
UPDATE "LiteLLM_VerificationToken" SET spend = 0.1 + 0.2, model_spend = '{"a": 0.3}', last_active = now(), updated_at = now(),
  budget_reset_at = now() WHERE token IN ('k1', 'k2');
UPDATE "LiteLLM_TeamMembership" SET spend = spend + 2, total_spend = 7 WHERE user_id = 'u2' AND team_id = 't3';
UPDATE "LiteLLM_EndUserTable" SET spend = 2; INSERT INTO "LiteLLM_EndUserTable"(user_id, spend) VALUES ('e2', 0.5);
UPDATE "LiteLLM_DailyUserSpend" SET spend = 5, api_requests = 9, updated_at = now();
INSERT INTO "LiteLLM_DailyUserSpend"(id, user_id, date, spend) VALUES ('d2', 'u1', '2026-01-02', 3);
UPDATE "LiteLLM_DailyPolicyMetrics" SET passed_count = 4; INSERT INTO "LiteLLM_DailyPolicyMetrics" VALUES ('p', '2026-01-02', 1);
"""
SUMS = {"VerificationToken": 2, "TeamMembership": 1, "EndUserTable": 2, "DailyUserSpend": 2, "DailyPolicyMetrics": 2}


class Two:
    """A database that was upgraded, and the one from before."""

    def __init__(self, world: World, case: Case) -> None:
        self.world = world
        self.taken = time.time()
        installation = case.installation
        self.live = Database(installation, world.postgres, USER, LIVE)
        self.restored = Database(installation, world.postgres, USER, RESTORED)

    def sql(self, text: str, database: str = LIVE) -> str:
        return self.world.sql(text, database)

    def both(self, text: str) -> None:
        for name in (LIVE, RESTORED):
            self.sql(text, name)

    def carry(self, place: Path) -> upgrade_export.Findings:
        return upgrade_export.carry(self.live, self.restored, self.taken, str(place))

    def same(self, rows: str) -> bool:
        text = f"SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM ({rows}) t"
        return self.sql(text) == self.sql(text, RESTORED) != ""


def rows_of(path: Path) -> list[dict[str, str]]:
    """Of a file that only its owner reads."""
    assert path.stat().st_mode & 0o777 == 0o600
    with open(path, encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(name="two")
def fixture_two(world: World, case: Case) -> Iterator[Two]:
    world.sql(f"CREATE DATABASE {LIVE} TEMPLATE {USER}", "postgres")
    world.sql(SPEND, LIVE)
    world.sql(f"CREATE DATABASE {RESTORED} TEMPLATE {LIVE}", "postgres")
    yield Two(world, case)
    for name in (LIVE, RESTORED):
        world.sql(f"DROP DATABASE {name} WITH (FORCE)", "postgres")


def test_rows_of_growing_tables_come_over_whole(two: Two, tmp_path: Path) -> None:
    two.sql("ALTER TABLE audit_logs ADD COLUMN invented text DEFAULT 'new'")
    two.sql(
        r"""
        INSERT INTO audit_logs(actor_id, action, resource_type, changes)
          SELECT E'\\.\ntab\t"' || i, 'später', 'r', jsonb_build_object('k', repeat('x', 5000), 'n', i) FROM generate_series(1, 50) i;
        INSERT INTO audit_logs(actor_id, action, resource_type, timestamp) VALUES ('no time', 'a', 'r', NULL);
        INSERT INTO "LiteLLM_SpendLogs"(request_id, spend) SELECT 'r' || i, i * 0.1 FROM generate_series(1, 30) i
        """
    )
    assert upgrade_export.differences(two.live, two.restored) == {}
    found = upgrade_export.carry(two.live, two.restored, two.taken, str(tmp_path))
    assert found.carried == {"public.LiteLLM_SpendLogs": 30, "public.audit_logs": 51} and found.exported == {}
    assert two.sql(EVERY) == two.sql(EVERY, RESTORED)
    # A run that was killed does it again.
    again = upgrade_export.carry(two.live, two.restored, two.taken, str(tmp_path))
    assert set(again.carried.values()) == {0} and two.sql(EVERY) == two.sql(EVERY, RESTORED)
    assert {path.name for path in tmp_path.glob("public.*")} == {
        "public.audit_logs.sql", "public.audit_logs.csv", "public.LiteLLM_SpendLogs.sql"
    }  # fmt: skip
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in tmp_path.glob("public.*"))


def test_it_does_not_matter_which_of_them_is_in_months(two: Two, tmp_path: Path) -> None:
    two.sql(
        """
        ALTER TABLE audit_logs RENAME TO whole; UPDATE whole SET timestamp = now() WHERE timestamp IS NULL;
        CREATE TABLE audit_logs (LIKE whole INCLUDING DEFAULTS, PRIMARY KEY (id, timestamp)) PARTITION BY RANGE (timestamp);
        CREATE TABLE audit_logs_rest PARTITION OF audit_logs DEFAULT;
        INSERT INTO audit_logs SELECT * FROM whole; DROP TABLE whole;
        INSERT INTO audit_logs(actor_id, action, resource_type) VALUES ('later', 'a', 'r')
        """
    )
    found = upgrade_export.carry(two.live, two.restored, two.taken, str(tmp_path))
    assert found.carried["public.audit_logs"] == 1 and two.sql(EVERY) == two.sql(EVERY, RESTORED)


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO teams(name) VALUES ('since')",
        "UPDATE teams SET monthly_budget = 7 WHERE name = 'old'",
        "DELETE FROM teams WHERE name = 'old'",
    ],
)
def test_a_change_elsewhere_is_found_exported_and_refused(two: Two, tmp_path: Path, change: str) -> None:
    for name in (LIVE, RESTORED):
        two.sql("UPDATE teams SET name = 'old', updated_at = '2026-01-01'", name)
    assert upgrade_export.differences(two.live, two.restored) == {}
    two.sql(change)
    differing = upgrade_export.differences(two.live, two.restored)
    assert list(differing) == ["public.teams"]
    with pytest.raises(ScutumError) as caught:
        upgrade_export.refuse(differing, "gateway1")
    assert "public.teams" in caught.value.what and "scutum_rollback_accept_export=gateway1" in caught.value.next_step
    found = upgrade_export.carry(two.live, two.restored, two.taken, str(tmp_path))
    exported = rows_of(tmp_path / "public.teams.csv")
    assert len(exported) == found.exported["public.teams"] == int(two.sql("SELECT count(*) FROM teams"))


def test_a_table_that_the_old_release_does_not_know_counts_when_it_has_rows(two: Two) -> None:
    two.sql("CREATE TABLE invented (id int PRIMARY KEY); ALTER TABLE teams ADD COLUMN mood text DEFAULT 'good'")
    assert upgrade_export.differences(two.live, two.restored) == {}
    two.sql("INSERT INTO invented VALUES (1)")
    assert upgrade_export.differences(two.live, two.restored) == {"public.invented": 1}


def test_what_the_old_schema_refuses_stops_it(two: Two, tmp_path: Path) -> None:
    two.sql("ALTER TABLE audit_logs ADD CHECK (actor_id <> 'never')", RESTORED)
    two.sql("INSERT INTO audit_logs(actor_id, action, resource_type) VALUES ('never', 'a', 'r')")
    before = two.sql(EVERY, RESTORED)
    with pytest.raises(ScutumError, match="cannot be brought over"):
        upgrade_export.carry(two.live, two.restored, two.taken, str(tmp_path))
    assert two.sql(EVERY, RESTORED) == before


@pytest.mark.parametrize("made", [REQUESTS, ALWAYS, MONTHS], ids=["serial", "identity", "owned by nobody"])
def test_numbers_go_on_where_the_rows_that_came_over_end(two: Two, tmp_path: Path, made: str) -> None:
    two.both(
        f"{made}; INSERT INTO request_logs(created_at) SELECT to_timestamp({two.taken}) FROM generate_series(1, 2)"
    )
    two.sql("INSERT INTO request_logs(status) SELECT 200 FROM generate_series(1, 40)")
    assert two.carry(tmp_path).carried["public.request_logs"] == 40
    new = "INSERT INTO request_logs(status) VALUES (500) RETURNING id"
    # Every further start would have failed on the primary key.
    assert two.sql(new, RESTORED) == "43"
    assert two.carry(tmp_path).carried["public.request_logs"] == 0 and two.sql(new, RESTORED) == "44"


def test_a_sequence_never_goes_backwards(two: Two, tmp_path: Path) -> None:
    two.both(f"{REQUESTS}; CREATE TABLE event_log (id bigserial PRIMARY KEY, created_at timestamptz DEFAULT now())")
    two.sql("SELECT setval('request_logs_id_seq', 1000)", RESTORED)
    two.sql("INSERT INTO request_logs(status) VALUES (200)")
    two.carry(tmp_path)
    assert two.sql("INSERT INTO request_logs(status) VALUES (500) RETURNING id", RESTORED) == "1001"
    # One that was never used stays so.
    assert two.sql("INSERT INTO event_log DEFAULT VALUES RETURNING id", RESTORED) == "1"


def test_a_column_of_another_type_is_the_same_column(two: Two, tmp_path: Path) -> None:
    two.both(f"{REQUESTS}; UPDATE teams SET name = 'old', updated_at = '2026-01-01'")
    two.both(
        "CREATE TABLE counted (id int PRIMARY KEY, t varchar(9)); INSERT INTO counted SELECT i, i FROM generate_series(1, 9) i"
    )
    two.sql(
        """
        ALTER TABLE audit_logs ALTER actor_id TYPE varchar(320); ALTER TABLE request_logs ALTER status TYPE bigint;
        ALTER TABLE teams ALTER name TYPE text; ALTER TABLE counted ALTER id TYPE bigint, ALTER t TYPE text;
        INSERT INTO audit_logs(actor_id, action, resource_type) VALUES (repeat('x', 255), 'a', 'r');
        INSERT INTO request_logs(status) VALUES (2147483647)
        """
    )
    assert upgrade_export.differences(two.live, two.restored) == {}
    found = two.carry(tmp_path)
    assert found.carried["public.audit_logs"] == found.carried["public.request_logs"] == 1
    assert two.sql(EVERY) == two.sql(EVERY, RESTORED) and two.same("SELECT status FROM request_logs")
    assert found.noted == found.exported == {}
    two.sql("UPDATE teams SET name = 'new', updated_at = '2026-01-01'; UPDATE counted SET id = 10 WHERE id = 9")
    assert list(upgrade_export.differences(two.live, two.restored)) == ["public.counted", "public.teams"]


@pytest.mark.parametrize(
    ("change", "row"),
    [
        (
            "ALTER TABLE audit_logs ALTER actor_id TYPE varchar(320)",
            "INSERT INTO audit_logs(actor_id, action, resource_type) VALUES (repeat('x', 256), 'a', 'r')",
        ),
        ("ALTER TABLE request_logs ALTER status TYPE bigint", "INSERT INTO request_logs(status) VALUES (2147483648)"),
    ],
    ids=["too long", "too large"],
)
def test_what_the_old_type_refuses_stops_it(two: Two, tmp_path: Path, change: str, row: str) -> None:
    two.both(REQUESTS)
    two.sql(f"{change}; {row}")
    before = two.sql(EVERY, RESTORED)
    with pytest.raises(ScutumError, match=r"cannot be brought over: .*(too long|out of range)"):
        two.carry(tmp_path)
    assert two.sql(EVERY, RESTORED) == before and two.sql("SELECT count(*) FROM request_logs", RESTORED) == "0"


def test_a_row_that_another_rule_of_the_old_schema_excludes_is_not_swallowed(two: Two, tmp_path: Path) -> None:
    two.sql("CREATE UNIQUE INDEX ON audit_logs (actor_id) WHERE action = 'once'", RESTORED)
    two.sql("INSERT INTO audit_logs(actor_id, action, resource_type) VALUES ('u', 'once', 'r'), ('u', 'once', 'r')")
    with pytest.raises(ScutumError, match="cannot be brought over"):
        two.carry(tmp_path)


def test_columns_that_only_the_newer_release_has_are_exported_for_information(two: Two, tmp_path: Path) -> None:
    two.both(f"{REQUESTS}; CREATE TABLE event_log (id bigserial PRIMARY KEY, created_at timestamptz DEFAULT now())")
    two.both("UPDATE teams SET name = 'old', updated_at = '2026-01-01'")
    two.sql(
        """
        ALTER TABLE audit_logs ADD COLUMN invented text; ALTER TABLE teams ADD COLUMN mood text DEFAULT 'good';
        ALTER TABLE event_log ADD COLUMN invented text; ALTER TABLE noise ADD COLUMN twice int GENERATED ALWAYS AS (id * 2) STORED;
        INSERT INTO audit_logs(actor_id, action, resource_type, invented) VALUES ('new', 'a', 'r', 'only here');
        UPDATE teams SET mood = 'only here', updated_at = '2026-01-01'
        """
    )
    assert upgrade_export.differences(two.live, two.restored) == {}
    for unused in range(2):
        found = two.carry(tmp_path)
        upgrade_export.refuse(found.exported, "gateway1")
        audit, teams = (rows_of(tmp_path / f"public.{name}.csv") for name in ("audit_logs", "teams"))
        # Not all of the history, and nothing of a table without rows or without such columns.
        assert 0 < len(audit) < 100 and [row["invented"] for row in audit if row["actor_id"] == "new"] == ["only here"]
        assert teams and {row["mood"] for row in teams} == {"only here"}
        assert found.noted == {"public.audit_logs": len(audit), "public.teams": len(teams)} and found.exported == {}
    said = "\n".join(upgrade_export.lines(found, str(tmp_path)))
    assert f"public.teams: {len(teams)} rows exported to {tmp_path} for information" in said
    assert {path.name for path in tmp_path.glob("*.csv")} == {"public.audit_logs.csv", "public.teams.csv"}
    two.sql("UPDATE teams SET name = 'new'")
    found = two.carry(tmp_path)
    assert list(found.exported) == ["public.teams"] and list(found.noted) == ["public.audit_logs"]


def test_totals_of_litellm_come_over_and_refuse_nothing(two: Two, tmp_path: Path) -> None:
    two.both(LITELLM)
    two.sql(TRAFFIC)
    assert upgrade_export.differences(two.live, two.restored) == {}
    found = two.carry(tmp_path)
    assert found.exported == {}
    for name, rows in SUMS.items():
        assert found.carried[f"public.LiteLLM_{name}"] == rows
        assert two.same(f'SELECT * FROM "LiteLLM_{name}"'), name
    again = two.carry(tmp_path)
    assert set(again.carried.values()) == {0} and again.exported == {}
    assert all(two.same(f'SELECT * FROM "LiteLLM_{name}"') for name in SUMS)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in tmp_path.glob("public.*"))


@pytest.mark.parametrize(
    ("change", "table"),
    [
        ("""UPDATE "LiteLLM_VerificationToken" SET max_budget = 11, spend = 3 WHERE token = 'k1'""", "VerificationToken"),
        ("""INSERT INTO "LiteLLM_VerificationToken"(token) VALUES ('new')""", "VerificationToken"),
        ("""DELETE FROM "LiteLLM_VerificationToken" WHERE token = 'k5'""", "VerificationToken"),
        ("""UPDATE "LiteLLM_TeamMembership" SET budget_id = 'b' WHERE user_id = 'u1' AND team_id = 't1'""", "TeamMembership"),
        ("""UPDATE "LiteLLM_EndUserTable" SET blocked = true WHERE user_id = 'e1'""", "EndUserTable"),
        ("""INSERT INTO "LiteLLM_EndUserTable"(user_id, budget_id) VALUES ('e9', 'b')""", "EndUserTable"),
    ],
)  # fmt: skip
def test_what_a_person_changed_beside_the_totals_is_refused(two: Two, tmp_path: Path, change: str, table: str) -> None:
    two.both(LITELLM)
    two.sql(TRAFFIC)
    two.sql(change)
    name = f"public.LiteLLM_{table}"
    differing = upgrade_export.differences(two.live, two.restored)
    assert list(differing) == [name]
    with pytest.raises(ScutumError, match=name):
        upgrade_export.refuse(differing, "gateway1")
    found = two.carry(tmp_path)
    # Accepted: exported as a whole; totals of rows that both have come over, and nothing that a person did.
    assert found.exported == differing
    assert (
        len(rows_of(tmp_path / f"{name}.csv"))
        == differing[name]
        == int(two.sql(f'SELECT count(*) FROM "LiteLLM_{table}"'))
    )
    assert (
        two.sql("""SELECT spend > 0, max_budget FROM "LiteLLM_VerificationToken" WHERE token = 'k1'""", RESTORED)
        == "t|10"
    )
    assert two.sql("""SELECT count(*) FROM "LiteLLM_VerificationToken" """, RESTORED) == "5"
    assert two.sql("""SELECT count(*) FROM "LiteLLM_EndUserTable" WHERE blocked OR user_id = 'e9'""", RESTORED) == "0"


def test_sums_that_the_old_release_makes_of_fewer_columns_are_for_a_person(two: Two, tmp_path: Path) -> None:
    two.both(LITELLM)
    two.sql(
        """
        ALTER TABLE "LiteLLM_DailyUserSpend" ADD endpoint text DEFAULT '', DROP CONSTRAINT "LiteLLM_DailyUserSpend_user_id_date_key",
          ADD UNIQUE (user_id, date, endpoint);
        INSERT INTO "LiteLLM_DailyUserSpend"(id, user_id, date, endpoint) VALUES ('d2', 'u1', '2026-01-01', '/chat')
        """
    )
    name = "public.LiteLLM_DailyUserSpend"
    assert upgrade_export.differences(two.live, two.restored) == {name: 2}
    # Accepted: it does not stop the rollback for ever.
    assert two.carry(tmp_path).exported == {name: 2} and len(rows_of(tmp_path / f"{name}.csv")) == 2


def test_without_a_primary_key_a_total_is_a_change_as_any_other(two: Two) -> None:
    two.both(
        'CREATE TABLE "LiteLLM_Keyless" (name text, spend float8); INSERT INTO "LiteLLM_Keyless" VALUES (\'a\', 1)'
    )
    two.both("CREATE TABLE budgets (id int PRIMARY KEY, spend float8); INSERT INTO budgets VALUES (1, 1)")
    two.sql('UPDATE "LiteLLM_Keyless" SET spend = 2; UPDATE budgets SET spend = 2')
    assert list(upgrade_export.differences(two.live, two.restored)) == ["public.LiteLLM_Keyless", "public.budgets"]
