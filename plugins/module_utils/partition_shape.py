# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What hangs on a table, and goes over to the one that takes its place; or is named as what prevents that.

Postgres's own word for each thing (`pg_get_indexdef` and its like) is what is run again. The table that takes the place is built in the
schema `scutum_ops` under the same name: indexes and constraints have their original names from the beginning, and go into the schema in
force together with it, in one statement.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from .audit_tables import Table, bounds
from .database import HASHED, literal, quoted
from .partition_session import OLD, WORK, Session

# Triggers of ours on a table that is being copied.
CHANGES, TRUNCATE = "scutum_ops_changes", "scutum_ops_truncate"
# How a table of ours is marked, in its comment.
MARK = "scutum.ops: "
DETACHED = MARK + "detached "
WAS = MARK + "the table was "

_COLUMNS = """
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS required, a.attgenerated <> '' AS generated,
       (t.typname = ANY (string_to_array('{hashed}', ' ')) OR t.typcategory = 'A' AND e.typname = ANY (string_to_array('{hashed}', ' '))
         OR t.typtype = 'e') AS hashed,
       coalesce(nullif(a.attstattarget, -1)::text, '') AS target,
       -- Only those that somebody sets: the server has stamps of its own there (seen: pg_attver, 17.12).
       (SELECT string_agg(o, ', ') FROM unnest(a.attoptions) o WHERE o ~ '^n_distinct') AS options
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_type e ON e.oid = t.typelem
 WHERE a.attrelid = {oid} AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""
_INDEXES = """
SELECT c.relname AS name, i.indisprimary AS "primary", i.indisunique AS "unique", coalesce(k.conname, '') AS "constraint",
       coalesce(pg_get_constraintdef(k.oid), '') AS constrained,
       substr(pg_get_indexdef(c.oid), 1 + length(format('CREATE %sINDEX %I ON %s%s ', CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END,
         c.relname, CASE c.relkind WHEN 'I' THEN 'ONLY ' ELSE '' END, i.indrelid::regclass))) AS rest
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
       LEFT JOIN pg_constraint k ON k.conindid = c.oid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')
 WHERE i.indrelid = {oid} ORDER BY i.indisprimary DESC, c.relname"""
# Statements that have to be run for the table in the schema scutum_ops, before it is in force; %s stands for its name.
_BEFORE = """
SELECT 1 AS step, format('ALTER TABLE %s OWNER TO %I', '{new}', pg_get_userbyid(c.relowner)) AS statement
  FROM pg_class c WHERE c.oid = {oid}
UNION ALL
SELECT 2, format('DO $d$ DECLARE who record; BEGIN FOR who IN SELECT DISTINCT x.grantee FROM pg_catalog.pg_class c, '
         'LATERAL pg_catalog.aclexplode(c.relacl) x WHERE c.oid = %L::regclass LOOP EXECUTE format(''REVOKE ALL ON {new} FROM %%s'', '
         'CASE who.grantee WHEN 0 THEN ''PUBLIC'' ELSE quote_ident(pg_get_userbyid(who.grantee)) END); END LOOP; END $d$', '{new}')
UNION ALL
SELECT 3, format('GRANT %s%s ON %s TO %s%s', x.privilege_type, o.part, '{new}',
         CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END,
         CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
  FROM (SELECT '' AS part, coalesce(relacl, acldefault('r', relowner)) AS acl FROM pg_class WHERE oid = {oid}
        UNION ALL SELECT format(' (%I)', attname), attacl FROM pg_attribute WHERE attrelid = {oid} AND attnum > 0 AND attacl IS NOT NULL) o,
       LATERAL aclexplode(o.acl) x
UNION ALL
SELECT 4, format('COMMENT ON TABLE %s IS %L', '{new}', obj_description({oid}, 'pg_class'))
 WHERE obj_description({oid}, 'pg_class') IS NOT NULL
UNION ALL
SELECT 5, format('ALTER TABLE %s ADD CONSTRAINT %I %s', '{new}', conname, pg_get_constraintdef(oid))
  FROM pg_constraint WHERE conrelid = {oid} AND contype = 'f' AND conparentid = 0
ORDER BY 1, 2"""
# Comments of what comes later: of indexes and constraints.
_COMMENTS = """
SELECT format('COMMENT ON INDEX {work}.%I IS %L', c.relname, obj_description(c.oid, 'pg_class')) AS statement
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = {oid} AND obj_description(c.oid, 'pg_class') IS NOT NULL
UNION ALL
SELECT format('COMMENT ON CONSTRAINT %I ON %s IS %L', conname, '{new}', obj_description(oid, 'pg_constraint'))
  FROM pg_constraint WHERE conrelid = {oid} AND contype <> 't' AND obj_description(oid, 'pg_constraint') IS NOT NULL"""
_SEQUENCES = """
SELECT s.oid::regclass::text AS name, a.attname AS "column"
  FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
       JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
 WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = {oid} AND d.deptype = 'a'"""
_VIEWS = """
SELECT DISTINCT c.oid::regclass::text AS name, c.oid::bigint AS oid
  FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class c ON c.oid = r.ev_class
 WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = {oid} AND c.relkind = 'v'
 ORDER BY 2"""
# In the order in which they are run, when the new table has the name already. The old one is in the schema scutum_ops_old.
_SWAP = """
SELECT 1 AS step, format('DROP STATISTICS %s', quote_ident(n.nspname) || '.' || quote_ident(s.stxname)) AS statement
  FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE s.stxrelid = {oid}
UNION ALL SELECT 2, pg_get_statisticsobjdef(s.oid) FROM pg_statistic_ext s WHERE s.stxrelid = {oid}
UNION ALL
SELECT 3, format('ALTER STATISTICS %I.%I OWNER TO %I', n.nspname, s.stxname, pg_get_userbyid(s.stxowner))
  FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE s.stxrelid = {oid}
UNION ALL
SELECT 3, format('ALTER STATISTICS %I.%I SET STATISTICS %s', n.nspname, s.stxname, s.stxstattarget)
  FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE s.stxrelid = {oid} AND s.stxstattarget >= 0
UNION ALL
SELECT 3, format('COMMENT ON STATISTICS %I.%I IS %L', n.nspname, s.stxname, obj_description(s.oid, 'pg_statistic_ext'))
  FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
 WHERE s.stxrelid = {oid} AND obj_description(s.oid, 'pg_statistic_ext') IS NOT NULL
UNION ALL
SELECT 4, format('CREATE OR REPLACE VIEW %s%s AS %s', c.oid::regclass,
         coalesce((SELECT ' WITH (' || string_agg(o, ', ') || ')' FROM unnest(c.reloptions) o), ''), rtrim(pg_get_viewdef(c.oid), ';'))
  FROM pg_class c WHERE c.oid = ANY ('{{{views}}}'::oid[])
UNION ALL
SELECT 5, pg_get_triggerdef(t.oid) FROM pg_trigger t WHERE t.tgrelid = {oid} AND NOT t.tgisinternal AND t.tgname NOT IN {ours}
UNION ALL
SELECT 6, format('ALTER TABLE {live} %s TRIGGER %I',
         CASE t.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END, t.tgname)
  FROM pg_trigger t WHERE t.tgrelid = {oid} AND NOT t.tgisinternal AND t.tgname NOT IN {ours} AND t.tgenabled <> 'O'
UNION ALL
SELECT 6, format('COMMENT ON TRIGGER %I ON {live} IS %L', t.tgname, obj_description(t.oid, 'pg_trigger'))
  FROM pg_trigger t WHERE t.tgrelid = {oid} AND NOT t.tgisinternal AND obj_description(t.oid, 'pg_trigger') IS NOT NULL
UNION ALL
SELECT 7, format('ALTER PUBLICATION %I DROP TABLE {old}', p.pubname)
  FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE r.prrelid = {oid}
UNION ALL
SELECT 8, format('ALTER PUBLICATION %I ADD TABLE {live}%s%s', p.pubname,
         coalesce((SELECT ' (' || string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) || ')' FROM pg_attribute a
                    WHERE a.attrelid = {oid} AND a.attnum = ANY (r.prattrs)), ''),
         coalesce(' WHERE (' || pg_get_expr(r.prqual, r.prrelid) || ')', ''))
  FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE r.prrelid = {oid}
ORDER BY 1, 2"""


@dataclass(frozen=True)
class Index:
    """An index of the table.

    Args:
        rest: its definition after the table's name.
        constrained: definition of the constraint that it serves; empty for none.
    """

    name: str
    primary: bool
    unique: bool
    constraint: str
    constrained: str
    rest: str

    def like(self, other: Index) -> bool:
        """Whether the other one does the same for another table."""
        if self.primary or other.primary:
            return self.primary and other.primary
        return (self.constrained, self.rest, self.unique) == (other.constrained, other.rest, other.unique)


@dataclass
class Shape:
    """A table, or what stands in for it, and its properties."""

    table: Table
    oid: int
    partitioned: bool
    columns: list[dict[str, Any]]
    indexes: list[Index]
    # Of a plain table: storage parameters, and whether its column may be NULL. Of a partitioned one: what they were.
    options: list[str] = field(default_factory=list)
    nullable: bool = False

    @property
    def live(self) -> str:
        """Its name in force."""
        return f"public.{quoted(self.table.name)}"

    @property
    def new(self) -> str:
        """The name of what is to take its place."""
        return f"{WORK}.{quoted(self.table.name)}"

    @property
    def old(self) -> str:
        """Its name when it is no longer in force."""
        return f"{OLD}.{quoted(self.table.name)}"

    @property
    def default(self) -> str:
        """Name of the DEFAULT partition."""
        return f"{self.table.name}_default"

    @property
    def id_type(self) -> str:
        """Type of the column `id`."""
        return str(next(column["type"] for column in self.columns if column["name"] == "id"))

    @property
    def stored(self) -> list[str]:
        """Columns that are written, in their order."""
        return [str(column["name"]) for column in self.columns if not column["generated"]]

    def time(self, alias: str, moment: str) -> str:
        """An expression for a row's time: NULL takes the fallback, or the moment at which the conversion began."""
        parts = [f"{alias}.{quoted(name)}" for name in (self.table.column, self.table.fallback) if name]
        return f"coalesce({', '.join(parts)}, {literal(moment)}::timestamptz)"

    def values(self, alias: str, moment: str, generated: bool = False) -> list[str]:
        """The columns of a row as the copy has them."""
        return [
            self.time(alias, moment) if column["name"] == self.table.column else f"{alias}.{quoted(column['name'])}"
            for column in self.columns
            if generated or not column["generated"]
        ]

    def hash(self, alias: str, moment: str) -> str:
        """An expression for the content of a row as the copy has it: a number, equal for equal rows."""
        row = f"ROW({', '.join(self.values(alias, moment, True))})"
        if all(column["hashed"] for column in self.columns):
            return f"pg_catalog.hash_record_extended({row}, 0)"
        return f"('x' || substr(md5({row}::text), 1, 16))::bit(64)::bigint"


def partition_name(table: str, month: str) -> str:
    """Name of the partition of a month."""
    return f"{table}_p{month.replace('-', '_')}"


def read(session: Session, table: Table) -> Shape | None:
    """The table in force; None when there is none."""
    found = session.rows(
        "SELECT c.oid::bigint AS oid, c.relkind AS kind, coalesce(c.reloptions, '{}') AS options "
        f"FROM pg_class c WHERE c.oid = to_regclass({literal('public.' + quoted(table.name))})"
    )
    if not found:
        return None
    oid = int(found[0]["oid"])
    columns = session.rows(_COLUMNS.format(oid=oid, hashed=HASHED))
    shape = Shape(table, oid, found[0]["kind"] == "p", columns, indexes(session, oid), found[0]["options"])
    shape.nullable = not next((column["required"] for column in columns if column["name"] == table.column), True)
    if shape.partitioned:
        name = f"public.{quoted(shape.default)}"
        said = session.value(f"SELECT obj_description(to_regclass({literal(name)}), 'pg_class')")
        before = json.loads(said[len(WAS) :]) if said.startswith(WAS) else {}
        shape.options, shape.nullable = before.get("options", []), before.get("nullable", True)
    return shape


def indexes(session: Session, oid: int) -> list[Index]:
    """Those of a table, the primary key's first."""
    return [Index(**row) for row in session.rows(_INDEXES.format(oid=oid))]


def _with(options: list[str]) -> str:
    """Storage parameters as a clause; those of the TOAST table are its own matter."""
    pairs = [option.partition("=") for option in options if not option.startswith("toast.")]
    return (
        f" WITH ({', '.join(f'{quoted(name)} = {literal(value)}' for name, unused, value in pairs)})" if pairs else ""
    )


def column_settings(shape: Shape, name: str) -> list[str]:
    """Statements for what a column of a table has, and LIKE does not bring along."""
    found = []
    for column in shape.columns:
        change = f"ALTER TABLE {name} ALTER COLUMN {quoted(column['name'])} SET"
        if column["target"]:
            found.append(f"{change} STATISTICS {int(column['target'])}")
        if column["options"]:
            found.append(f"{change} ({column['options']})")
    return found


def build(session: Session, shape: Shape, partitioned: bool) -> list[str]:
    """Statements that make the table which takes the place, without indexes and rows."""
    column = quoted(shape.table.column)
    like = f"LIKE {shape.live} INCLUDING ALL EXCLUDING INDEXES EXCLUDING STATISTICS EXCLUDING IDENTITY"
    created = f"CREATE TABLE {shape.new} ({like})"
    if partitioned:
        made = [
            f"{created} PARTITION BY RANGE ({column})",
            f"ALTER TABLE {shape.new} ALTER COLUMN {column} SET NOT NULL",
        ]
    else:
        made = [created + _with(shape.options)]
        if shape.nullable:
            made.append(f"ALTER TABLE {shape.new} ALTER COLUMN {column} DROP NOT NULL")
    made += column_settings(shape, shape.new)
    names = {"oid": shape.oid, "new": shape.new}
    return made + [str(row["statement"]) for row in session.rows(_BEFORE.format(**names))]


def build_partition(shape: Shape, parent: str, schema: str, month: str) -> list[str]:
    """Statements that make a partition of a parent that nobody uses yet: of a month, or without one the DEFAULT partition."""
    name = f"{schema}.{quoted(partition_name(shape.table.name, month) if month else shape.default)}"
    made = [f"CREATE TABLE {name} PARTITION OF {parent} {for_values(month)}{_with(shape.options)}"]
    if not month:
        made.append(f"COMMENT ON TABLE {name} IS {literal(was(shape))}")
    return [*made, *column_settings(shape, name)]


def build_alone(session: Session, shape: Shape, name: str) -> list[str]:
    """Statements that make a table which can become a partition of one that is in use, with its indexes."""
    like = f"LIKE {shape.live} INCLUDING ALL EXCLUDING STATISTICS"
    owner = session.value(f"SELECT quote_ident(pg_get_userbyid(relowner)) FROM pg_class WHERE oid = {shape.oid}")
    made = [f"CREATE TABLE {name} ({like}){_with(shape.options)}", f"ALTER TABLE {name} OWNER TO {owner}"]
    return [*made, *column_settings(shape, name)]


def was(shape: Shape) -> str:
    """The comment of the DEFAULT partition: what the plain table was, for the way back."""
    return WAS + json.dumps({"nullable": shape.nullable, "options": shape.options})


def for_values(month: str) -> str:
    """The bounds of a partition as a clause."""
    if not month:
        return "DEFAULT"
    lower, upper = bounds(month)
    return f"FOR VALUES FROM ({literal(lower)}) TO ({literal(upper)})"


def index(shape: Shape, one: Index, name: str, named: bool, partitioned: bool) -> str:
    """A statement that makes an index on a table.

    Args:
        named: whether it has the original's name, or the one that Postgres gives it.
        partitioned: whether the primary key needs the column.
    """
    if one.primary:
        key = f"PRIMARY KEY (id, {quoted(shape.table.column)})" if partitioned else "PRIMARY KEY (id)"
        return f"ALTER TABLE {name} ADD {f'CONSTRAINT {quoted(one.constraint)} ' if named else ''}{key}"
    if one.constraint:
        return f"ALTER TABLE {name} ADD {f'CONSTRAINT {quoted(one.constraint)} ' if named else ''}{one.constrained}"
    unique = "UNIQUE " if one.unique else ""
    return f"CREATE {unique}INDEX {quoted(one.name) + ' ' if named else ''}ON {name} {one.rest}"


def comments(session: Session, shape: Shape) -> list[str]:
    """Statements for the comments of indexes and constraints."""
    sql = _COMMENTS.format(oid=shape.oid, work=WORK, new=shape.new)
    return [str(row["statement"]) for row in session.rows(sql)]


def locks(session: Session, shape: Shape) -> list[str]:
    """Statements that take every lock of the swap: views first, as whoever reads one does."""
    views = [str(row["name"]) for row in session.rows(_VIEWS.format(oid=shape.oid))]
    made = [f"LOCK TABLE {', '.join(views)} IN ACCESS EXCLUSIVE MODE"] if views else []
    return [*made, f"LOCK TABLE ONLY {shape.live} IN ACCESS EXCLUSIVE MODE"]


def swap(session: Session, shape: Shape) -> list[str]:
    """Statements that put the new table in the place of the old one, with all that hangs on it."""
    sequences = session.rows(_SEQUENCES.format(oid=shape.oid))
    views = [str(row["oid"]) for row in session.rows(_VIEWS.format(oid=shape.oid))]
    names = {
        "oid": shape.oid,
        "live": shape.live.replace("%", "%%"),
        "old": shape.old.replace("%", "%%"),
        "views": ",".join(views),
    }
    rest = session.rows(_SWAP.format(**names, ours=f"('{CHANGES}', '{TRUNCATE}')"))
    return [
        *(f"ALTER SEQUENCE {row['name']} OWNED BY NONE" for row in sequences),
        f"ALTER TABLE {shape.live} SET SCHEMA {OLD}",
        f"ALTER TABLE {shape.new} SET SCHEMA public",
        *(f"ALTER SEQUENCE {row['name']} OWNED BY {shape.live}.{quoted(row['column'])}" for row in sequences),
        *(str(row["statement"]) for row in rest),
    ]
