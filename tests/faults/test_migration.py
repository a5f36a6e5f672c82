"""Alembic's record against a real Postgres: written back, the schema's revision noted beside it, and found by whoever migrates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import migration, restore_verification
from ansible_collections.scutum.ops.plugins.module_utils.database import Database
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from world import USER, Case, World, docker

NAME, CARRIED = "written_back", "carried"
FOREIGN = "COMMENT ON TABLE alembic_version IS 'It''s ours; scutum.ops: the schema is that of revision 030'"


class Back:
    """A database of the stand-in's newest revision, which nobody else uses."""

    def __init__(self, world: World, case: Case) -> None:
        self.world = world
        self.case = case
        self.database = self.named(NAME)
        self.head = self.database.alembic_version()
        self.said: list[str] = []

    def named(self, name: str) -> Database:
        return Database(self.case.installation, self.world.postgres, USER, name)

    def sql(self, text: str) -> str:
        return self.world.sql(text, NAME)

    def comment(self) -> str:
        return self.sql("SELECT obj_description('alembic_version'::regclass, 'pg_class')")

    def state(self, database: Database | None = None) -> tuple[str, str]:
        """What alembic reads, and what is noted."""
        database = database or self.database
        return database.alembic_version(), migration.ahead(database)

    def forward(self) -> str:
        return migration.forward(
            self.database, self.world.admin_image, self.database.alembic_version(), self.said.append
        )


@pytest.fixture(name="back")
def fixture_back(world: World, case: Case) -> Iterator[Back]:
    world.sql(f"CREATE DATABASE {NAME} TEMPLATE {USER}", "postgres")
    yield Back(world, case)
    for name in (NAME, CARRIED):
        world.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", "postgres")


def test_what_stood_there_is_noted_and_the_way_forward_forgets_it(back: Back) -> None:
    assert back.state() == (back.head, "")
    for unused in range(2):
        assert migration.write_head(back.database, "020") == "" and back.state() == ("020", back.head)
    assert back.comment() == f"scutum.ops: the schema is that of revision {back.head}"
    # Twice back: the newest stays.
    assert migration.write_head(back.database, "010") == "" and back.state() == ("010", back.head)
    for unused in range(2):
        assert migration.write_head(back.database, back.head) == "" and back.state() == (back.head, "")
    assert back.comment() == ""


@pytest.mark.parametrize(
    "foreign",
    [
        FOREIGN,
        "COMMENT ON TABLE alembic_version IS 'scutum.ops: the schema is that of revision 030 '",
        "COMMENT ON TABLE alembic_version IS E'scutum.ops: the schema is that of revision 030\\n031'",
        "COMMENT ON TABLE alembic_version IS 'scutum-ops: the schema is that of revision 030'",
    ],
    ids=["around", "a space", "a line", "a dot"],
)
def test_somebody_elses_comment_stays(back: Back, foreign: str) -> None:
    back.sql(foreign)
    before = back.comment()
    assert "somebody else's" in migration.write_head(back.database, "020")
    assert back.state() == ("020", "") and back.comment() == before
    assert back.forward() == "" and back.state() == ("020", "") and back.comment() == before and back.said == []


def test_a_revision_is_a_text_like_any_other(back: Back) -> None:
    odd = "o'dd%L\\:x$head$"
    assert migration.write_head(back.database, odd) == "" and back.state() == (odd, back.head)
    migration.write_head(back.database, back.head)
    back.sql("UPDATE alembic_version SET version_num = 'o''dd%L\\:x$head$'")
    assert migration.write_head(back.database, "020") == "" and back.state() == ("020", odd)
    assert migration.write_head(back.database, odd) == "" and back.state() == (odd, "")


@pytest.mark.parametrize(
    "broken",
    ["DELETE FROM alembic_version", "INSERT INTO alembic_version VALUES ('020')", "DROP TABLE alembic_version"],
    ids=["no row", "two rows", "no table"],
)
def test_where_there_is_not_one_head_nothing_is_written(back: Back, broken: str) -> None:
    back.sql(broken)
    before = back.state()
    with pytest.raises(ScutumError):
        migration.write_head(back.database, "010")
    assert back.state() == before == (before[0], "")


def test_head_and_note_are_written_together_or_not_at_all(back: Back) -> None:
    back.sql("ALTER TABLE alembic_version ADD CHECK (version_num <> '020')")
    with pytest.raises(ScutumError, match="check constraint"):
        migration.write_head(back.database, "020")
    assert back.state() == (back.head, "")
    migration.write_head(back.database, "010")
    back.sql(f"ALTER TABLE alembic_version ADD CHECK (version_num <> '{back.head}') NOT VALID")
    with pytest.raises(ScutumError, match="check constraint"):
        migration.write_head(back.database, back.head)
    assert back.state() == ("010", back.head)


def _copied(back: Back) -> None:
    back.world.sql(f"CREATE DATABASE {CARRIED} TEMPLATE {NAME}", "postgres")


def _dumped(back: Back) -> None:
    back.world.sql(f"CREATE DATABASE {CARRIED} TEMPLATE template0", "postgres")
    pipe = (
        f"set -o pipefail; pg_dump -Fc -U {USER} {NAME} | pg_restore --exit-on-error --no-owner -U {USER} -d {CARRIED}"
    )
    docker("exec", back.world.postgres, "sh", "-c", pipe)


@pytest.mark.parametrize("carry", [_copied, _dumped], ids=["template", "dump"])
def test_the_note_travels_and_does_not_disturb_a_comparison(back: Back, carry: Callable[[Back], None]) -> None:
    migration.write_head(back.database, "020")
    with back.database.snapshot() as snapshot:
        manifest: dict[str, Any] = {
            "schema": snapshot.schema(),
            "sequences": snapshot.sequences(),
            "alembic_head": "020",
        }
    assert "comment table public.alembic_version" in manifest["schema"]
    carry(back)
    carried = back.named(CARRIED)
    assert back.state(carried) == ("020", back.head)
    assert "objects are equal, alembic at 020" in restore_verification.compare_schema(manifest, carried)
    # It is compared: one that is lost on the way is seen.
    migration.write_head(carried, back.head)
    with pytest.raises(ScutumError, match=r"comment table public\.alembic_version is missing"):
        restore_verification.compare_schema(manifest, carried)


def test_an_image_that_knows_what_is_noted_goes_on_there(back: Back) -> None:
    assert back.forward() == "" and back.said == []
    migration.write_head(back.database, "020")
    assert back.forward() == back.head and back.state() == (back.head, "")
    assert f"revision {back.head} already" in back.said[0] and "led back to 020" in back.said[0]
    assert back.forward() == "" and len(back.said) == 1


def test_an_image_that_does_not_know_it_writes_nothing(back: Back) -> None:
    back.sql("UPDATE alembic_version SET version_num = '999'")
    migration.write_head(back.database, "020")
    assert back.forward() == "" and back.state() == ("020", "999")
    assert "999, which this image does not know" in back.said[0]
    with pytest.raises(ScutumError, match="does not tell"):
        migration.forward(back.database, "scutum-ops-no-such-image", "020", back.said.append)
    assert back.state() == ("020", "999")


def test_a_note_that_was_overtaken_goes(back: Back) -> None:
    back.sql("UPDATE alembic_version SET version_num = '015'")
    migration.write_head(back.database, "010")
    # Somebody migrated by other means.
    back.sql("UPDATE alembic_version SET version_num = '020'")
    assert back.forward() == "" and back.state() == ("020", "") and "taken away" in back.said[0]


def test_what_is_done_is_not_done_again(back: Back) -> None:
    """The real alembic, on a schema that it has made already: its second revision inserts rows."""
    world = back.world
    url = f"DATABASE_URL=postgresql://{USER}:{world.password}@postgres:5432/{NAME}"
    migrate = ("run", "--rm", "--network", world.network, "-e", url, world.admin_image, "alembic", "upgrade", "head")
    count = "SELECT count(*) FROM models"
    before = back.sql(count)
    migration.write_head(back.database, "001")
    assert back.forward() == back.head
    docker(*migrate)
    assert back.state() == (back.head, "") and back.sql(count) == before
    # What would be without the note. (Most tables are missing here: a later revision may fail.)
    back.sql("UPDATE alembic_version SET version_num = '001'")
    docker(*migrate, check=False)
    assert int(back.sql(count)) > int(before)
