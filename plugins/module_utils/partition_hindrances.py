# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What prevents that a table is given another shape, and what to do about it. All else goes over by itself: `partition_shape`."""

from __future__ import annotations

from . import partition_shape as shapes
from .database import literal
from .partition_session import Session

# What prevents a change of shape, and what to do about it. {oid} is the table's, {column} its column as text.
_HINDRANCES = """
SELECT format('its primary key is not (id)') AS what,
       'this collection divides the product''s own table only: compare it with the release' AS remedy
 WHERE NOT {partitioned} AND NOT EXISTS (SELECT 1 FROM pg_constraint k JOIN pg_index i ON i.indexrelid = k.conindid
   WHERE k.conrelid = {oid} AND k.contype = 'p' AND NOT k.condeferrable AND i.indnatts = 1
     AND k.conkey = ARRAY[(SELECT attnum FROM pg_attribute WHERE attrelid = {oid} AND attname = 'id')])
UNION ALL
SELECT format('its column %s is not a timestamptz that is stored', {column}), 'compare the table with the release'
 WHERE NOT EXISTS (SELECT 1 FROM pg_attribute WHERE attrelid = {oid} AND attname = {column} AND NOT attisdropped
   AND atttypid = 'timestamptz'::regtype AND attgenerated = '')
UNION ALL
SELECT format('the foreign key %I of %s points at it', conname, conrelid::regclass),
       format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname)
  FROM pg_constraint WHERE confrelid = {oid} AND contype = 'f' AND conparentid = 0
UNION ALL
SELECT format('the constraint %I is not validated', conname), format('ALTER TABLE {live} VALIDATE CONSTRAINT %I', conname)
  FROM pg_constraint WHERE conrelid = {oid} AND contype IN ('c', 'f') AND NOT convalidated
UNION ALL
SELECT format('the constraint %I is NO INHERIT', conname), 'drop it, and add it without NO INHERIT'
  FROM pg_constraint WHERE conrelid = {oid} AND contype = 'c' AND connoinherit
UNION ALL
SELECT format('the exclusion constraint %I cannot hold for a partitioned table', conname),
       format('ALTER TABLE {live} DROP CONSTRAINT %I', conname)
  FROM pg_constraint WHERE conrelid = {oid} AND contype = 'x'
UNION ALL
SELECT format('the unique index %I does not have the column %I', c.relname, {column}::text),
       CASE WHEN k.oid IS NULL THEN format('DROP INDEX %s', c.oid::regclass)
            ELSE format('ALTER TABLE {live} DROP CONSTRAINT %s', quote_ident(k.conname)) END
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid LEFT JOIN pg_constraint k ON k.conindid = c.oid AND k.conrelid = {oid}
 WHERE i.indrelid = {oid} AND i.indisunique AND NOT i.indisprimary AND k.contype IS DISTINCT FROM 'x' AND NOT EXISTS (SELECT 1
   FROM pg_attribute a WHERE a.attrelid = {oid} AND a.attname = {column} AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
UNION ALL
SELECT format('the index %I is not valid', c.relname), format('REINDEX INDEX CONCURRENTLY %s, or drop it', c.oid::regclass)
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = {oid} AND NOT i.indisvalid
UNION ALL
SELECT format('%I GENERATED AS IDENTITY is not for partitioned tables of every version', attname),
       'ALTER TABLE … DROP IDENTITY, and a sequence as default'
  FROM pg_attribute WHERE attrelid = {oid} AND attidentity <> ''
UNION ALL
SELECT 'it has row level security', 'ALTER TABLE {live} DISABLE ROW LEVEL SECURITY, and drop its policies'
  FROM pg_class c WHERE c.oid = {oid} AND (c.relrowsecurity OR EXISTS (SELECT 1 FROM pg_policy WHERE polrelid = {oid}))
UNION ALL
SELECT format('it has the rule %I', rulename), format('DROP RULE %I ON {live}', rulename) FROM pg_rewrite WHERE ev_class = {oid}
UNION ALL
SELECT format('it inherits from or is inherited by %s', CASE inhrelid WHEN {oid} THEN inhparent ELSE inhrelid END::regclass),
       'ALTER TABLE … NO INHERIT'
  FROM pg_inherits WHERE inhrelid = {oid} OR inhparent = {oid} AND NOT {partitioned}
UNION ALL
SELECT 'it is not a permanent table of its own kind', 'ALTER TABLE {live} SET LOGGED, NOT OF' FROM pg_class
 WHERE oid = {oid} AND (relpersistence <> 'p' OR reloftype <> 0 OR relkind NOT IN ('r', 'p'))
UNION ALL
SELECT format('%s lies in a tablespace of its own', c.oid::regclass), 'move it to the database''s own: SET TABLESPACE pg_default'
  FROM pg_class c
 WHERE c.reltablespace <> 0 AND (c.oid = {oid} OR c.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = {oid}))
UNION ALL
SELECT 'its replica identity is not the primary key', 'ALTER TABLE {live} REPLICA IDENTITY DEFAULT' FROM pg_class
 WHERE oid = {oid} AND relreplident <> 'd'
UNION ALL
SELECT format('the row trigger %I has a transition table', tgname), format('DROP TRIGGER %I ON {live}', tgname) FROM pg_trigger
 WHERE tgrelid = {oid} AND NOT tgisinternal AND tgtype & 1 = 1 AND (tgoldtable IS NOT NULL OR tgnewtable IS NOT NULL)
UNION ALL
SELECT format('the trigger %I runs before each row and may change %I: a row that it moves to another month is refused',
         t.tgname, {column}::text),
       format('DROP TRIGGER %I ON {live}', t.tgname)
  FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid WHERE t.tgrelid = {oid} AND NOT t.tgisinternal AND t.tgtype & 3 = 3
   AND strpos(p.prosrc, {column}) > 0
UNION ALL
SELECT format('the publication %I has all tables%s', p.pubname, CASE WHEN p.puballtables THEN '' ELSE ' of the schema' END),
       'name the tables in it: subscribers would be sent the partitions, which they do not have'
  FROM pg_publication p WHERE p.puballtables OR EXISTS (SELECT 1 FROM pg_publication_namespace n
   WHERE n.pnpubid = p.oid AND n.pnnspid = 'public'::regnamespace)
UNION ALL
SELECT format('the publication %I sends partitions under their own names', p.pubname),
       format('ALTER PUBLICATION %I SET (publish_via_partition_root = true)', p.pubname)
  FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid WHERE r.prrelid = {oid} AND NOT p.pubviaroot
UNION ALL
SELECT format('it is the target of a subscription'), 'ALTER SUBSCRIPTION … REFRESH PUBLICATION without it'
  FROM pg_subscription_rel WHERE srrelid = {oid}
UNION ALL
SELECT format('it has a security label'), 'SECURITY LABEL ON TABLE {live} IS NULL' FROM pg_seclabel
 WHERE classoid = 'pg_class'::regclass AND objoid = {oid}
UNION ALL
SELECT DISTINCT format('%s depends on it', pg_describe_object(y.classid, y.objid, 0)),
       'drop it, and create it anew when the table has its new shape'
  FROM (
    SELECT CASE WHEN r.oid IS NULL THEN d.classid ELSE 'pg_class'::regclass END AS classid,
           coalesce(r.ev_class, d.objid) AS objid, d.refclassid, d.classid AS by, c.relkind, r.rulename
      FROM pg_depend d LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
           LEFT JOIN pg_class c ON c.oid = coalesce(r.ev_class, CASE d.classid WHEN 'pg_class'::regclass THEN d.objid END)
     WHERE d.deptype NOT IN ('i', 'P', 'S') AND (
           d.refclassid = 'pg_class'::regclass AND d.refobjid = {oid}
        OR d.refclassid = 'pg_type'::regclass AND d.refobjid IN (
             SELECT unnest(ARRAY[t.oid, t.typarray]) FROM pg_type t WHERE t.typrelid = {oid})
        OR d.refclassid = 'pg_constraint'::regclass AND d.classid = 'pg_rewrite'::regclass AND d.refobjid IN (
             SELECT oid FROM pg_constraint WHERE conrelid = {oid} AND contype = 'p'))) y
 WHERE y.objid <> {oid} AND NOT (y.refclassid = 'pg_class'::regclass AND (
         y.by IN ('pg_attrdef'::regclass, 'pg_constraint'::regclass, 'pg_publication_rel'::regclass, 'pg_statistic_ext'::regclass)
      OR y.by = 'pg_trigger'::regclass AND EXISTS (SELECT 1 FROM pg_trigger WHERE oid = y.objid AND tgrelid = {oid})
      OR y.by = 'pg_policy'::regclass AND EXISTS (SELECT 1 FROM pg_policy WHERE oid = y.objid AND polrelid = {oid})
      OR y.by = 'pg_class'::regclass AND y.relkind IN ('i', 'I', 'S', 't', 'r', 'p')
      OR y.by = 'pg_rewrite'::regclass AND y.relkind = 'v' AND y.rulename = '_RETURN'))
UNION ALL
SELECT format('%s is a relation already', c.oid::regclass), 'rename it: a partition will have this name' FROM pg_class c
 WHERE NOT {partitioned} AND NOT {open} AND c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
   AND c.relname ~ ('^' || {name} || '_(default|p[0-9]{{4}}_[0-9]{{2}})$')
ORDER BY 1"""


def find(session: Session, shape: shapes.Shape, is_open: bool) -> list[str]:
    """What prevents another shape of the table, each with what to do about it.

    Args:
        is_open: partitions of a conversion that was begun are there already.
    """
    given = {
        "partitioned": str(shape.partitioned).lower(),
        "open": str(is_open).lower(),
        "live": shape.live.replace("%", "%%"),
    }
    names = {"column": literal(shape.table.column), "name": literal(shape.table.name)}
    found = session.rows(_HINDRANCES.format(oid=shape.oid, **given, **names))
    return [f"{row['what']} (then: {row['remedy']})" for row in found]
