"""The table of all faults: what is injected, where it has to be noticed, and what has to be said. The tests run over it."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Any

import damage
from proxy import Rule

REFUSED, FAILED, UNKNOWN, BORNE = "refused", "failed", "unknown", "borne"


@dataclass(frozen=True)
class Fault:
    """One fault.

    Args:
        kind: a line of the table in docs/roles/backup.md.
        how: what injects it: lines of sh around pg_dump, rules of the proxy, a damage to objects, SQL, a function's name.
        says: a pattern of what has to be said.
        outcome: refused by the backup; failed or unknown at the verification (the backup went well); borne: a good backup all the same.
    """

    kind: str
    name: str
    how: Any
    says: str
    outcome: str = REFUSED

    def __str__(self) -> str:
        return self.name


# --- what makes the dump. $3 is the container.

# Stop after the first of five MiB, do something, go on after four seconds: the engine may tell the end of what was done only when the
# output of what it ended has been read.
_MID = """
rm -f "$0.fifo"; mkfifo "$0.fifo"; docker "$@" > "$0.fifo" & pid=$!
{{ head -c 1000000; {{ {0}; }} & act=$!; sleep 4; cat; wait $act; }} < "$0.fifo"
wait $pid; exit $?
"""
_PSQL = "docker exec -i $3 psql -X -q -At -U scutum -d postgres >/dev/null -c"
_END = _PSQL + ' "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {0}"'
# Asked for is enough: the session with the snapshot has read the table, and holds it.
_LOCKED = "SELECT 1 FROM pg_locks WHERE relation = 'teams'::regclass AND mode = 'AccessExclusiveLock'"
_KILL = "docker exec $3 sh -c 'for p in /proc/[0-9]*; do read -r n < $p/comm; [ $n != pg_dump ] || kill -9 ${{p#/proc/}}; done'"
_KEEP = 'docker "$@" > "$0.data"; size=$(stat -c %s "$0.data"); head -c $(({0})) "$0.data"; exit 0'
_LIVE = 'for word; do shift; case $word in --snapshot=*) ;; *) set -- "$@" "$word" ;; esac; done; '
_NOT_WHOLE = "pg_dump ended well, and its dump is not whole: "

PRODUCER = [
    Fault("producer", "session ended midway", _MID.format(_END.format("application_name LIKE 'scutum-ops-dump-%'")),
          "pg_dump failed .1.: .*table .noise. failed"),
    Fault("producer", "pg_dump killed midway", _MID.format(_KILL.format()), r"pg_dump failed \(137\)"),
    Fault("producer", "server killed midway", _MID.format("docker kill $3 >/dev/null"), r"pg_dump failed \("),
    Fault("producer", "engine's client killed midway", _MID.format("kill -9 $pid"), r"pg_dump failed \(137\)"),
    Fault("producer", "session with the snapshot ended", _END.format("backend_type = 'client backend' AND pid <> pg_backend_pid()")
          + '; exec docker "$@"', r"pg_dump failed \(1\): .*snapshot"),
    Fault("producer", "a table is locked", 'for db; do :; done; docker exec -d $3 psql -U scutum -d "$db" -c "BEGIN; LOCK teams; '
          'SELECT pg_sleep(60)"; until docker exec $3 psql -X -q -At -U scutum -d "$db" -c "' + _LOCKED + '" | grep -q 1; do sleep 0.1; '
          'done; docker "$@" --lock-wait-timeout=500; rc=$?; ' + _END.format("query LIKE 'BEGIN; LOCK teams%'") + "; exit $rc",
          r"pg_dump failed \(1\): .*(lock|statement) timeout"),
    Fault("producer", "no pg_dump", "exit 127", r"pg_dump failed \(127\): it was ended"),
    Fault("producer", "all of it, exit 1", 'docker "$@"; exit 1', r"pg_dump failed \(1\)"),
    Fault("producer", "exit 0 with nothing", "exit 0", _NOT_WHOLE + "it is empty"),
    Fault("producer", "exit 0 with words", "echo 'pg_dump: error: no memory'; exit 0", _NOT_WHOLE + "it does not begin like a dump"),
    Fault("producer", "exit 0 with the head", _KEEP.format("200"), _NOT_WHOLE + "it ends after 200 bytes, in its table of contents"),
    Fault("producer", "exit 0 with half", _KEEP.format("size / 2"), _NOT_WHOLE + r"it ends after \d+ bytes, in the data of public.noise"),
    Fault("producer", "exit 0 without the last byte", _KEEP.format("size - 1"), _NOT_WHOLE + r"it ends after \d+ bytes, in the data of "),
    Fault("producer", "exit 0 with a table missing", 'exec docker "$@" --exclude-table=public.teams', "public.teams is missing", FAILED),
    Fault("producer", "exit 0 without audit rows", 'exec docker "$@" --exclude-table-data=public.audit_logs',
          r"public.audit_logs has 0 rows, the manifest says 30\d\d", FAILED),
    Fault("producer", "exit 0 without indexes", 'exec docker "$@" --section=pre-data --section=data', "schema: .*is missing", FAILED),
    Fault("producer", "exit 0 with another database", _LIVE + 'exec docker "$@" -d postgres', "public.audit_logs is missing", FAILED),
    Fault("producer", "exit 0 with another moment", _LIVE + 'for db; do :; done; docker exec $3 psql -q -U scutum -d "$db" -c '
          """ "INSERT INTO audit_logs(actor_id, action, resource_type) VALUES ('x', 'a', 'r')"; exec docker "$@" """,
          r"public.audit_logs has 30\d\d rows", FAILED),
]  # fmt: skip

# --- the store, and the line to it

_NOT_KEPT = r"is not there as it was sent: \d+ bytes were acknowledged, and the store has "
_DUMP_PART, _MANIFEST, _CONFIGURATION = "partNumber=2", r"manifest\.json", r"configuration\.tar\.gz"


def _rule(method: str, path: str, status: int, code: str, times: int = 1 << 30) -> tuple[Rule]:
    return (Rule(method, path, "answer", status, code, times),)


def _act(method: str, path: str, act: str, times: int = 1 << 30) -> tuple[Rule]:
    return (Rule(method, path, act, times=times),)


STORE = [
    Fault("store", "part 2: 403", _rule("PUT", _DUMP_PART, 403, "AccessDenied"), r"part 2: .*may not do s3:PutObject \(AccessDenied"),
    Fault("store", "part 4: 500", _rule("PUT", "partNumber=4", 500, "InternalError"), "part 4: the store fails, still at attempt 2"),
    Fault("store", "503 storm for ever", _rule("PUT", "partNumber", 503, "SlowDown"), r"overloaded, still at attempt 2 \(SlowDown, 503\)"),
    Fault("store", "503 storm at every request", _rule("GET", "list-type|uploads", 503, "SlowDown"), "overloaded, still at attempt 2"),
    Fault("store", "503 storm that ends", _rule("PUT", "partNumber", 503, "SlowDown", 2), "", BORNE),
    Fault("store", "part 2: hung up for ever", _act("PUT", _DUMP_PART, "reset"), "part 2: the connection broke"),
    Fault("store", "hung up once at each stage", (Rule("PUT", _DUMP_PART, "reset", times=1), Rule("PUT", _MANIFEST, "reset", times=1),
          Rule("POST", "uploadId", "reset", times=1)), "", BORNE),
    Fault("store", "part 2: silence", _act("PUT", _DUMP_PART, "stall"), "part 2: no answer in time"),
    Fault("store", "slow", _act("PUT", "", "slow"), "", BORNE),
    Fault("store", "bucket missing", {"bucket": "gone"}, "bucket gone/.*there is no such bucket"),
    Fault("store", "nobody listens", {"endpoint_url": "http://127.0.0.1:9"}, "the connection is refused"),
    Fault("store", "full at part 2 (507)", _rule("PUT", _DUMP_PART, 507, "XMinioStorageFull"), "part 2: the store is full"),
    Fault("store", "quota at part 3 (403)", _rule("PUT", "partNumber=3", 403, "QuotaExceeded"), "the store is full, or a quota is reached"),
    Fault("store", "full at the configuration", _rule("PUT", _CONFIGURATION, 507, "InsufficientStorage"), "tar.gz: the store is full"),
    Fault("store", "full at the manifest", _rule("PUT", _MANIFEST, 507, "InsufficientStorage"), "manifest.json: the store is full"),
    Fault("store", "manifest: 403", _rule("PUT", _MANIFEST, 403, "AccessDenied"), "manifest.json: .*may not do s3:PutObject"),
    Fault("store", "upload not begun: 403", _rule("POST", r"\?uploads", 403, "AccessDenied"), "database.dump: .*may not do s3:PutObject"),
    Fault("store", "upload not completed: 500", _rule("POST", "uploadId", 500, "InternalError"), "database.dump: the store fails"),
    Fault("store", "answer to the completion lost", _act("POST", "uploadId", "lost", 1), "", BORNE),
    Fault("store", "answer to the manifest lost", _act("PUT", _MANIFEST, "lost", 1), "", BORNE),
    Fault("store", "list: 403", _rule("GET", "list-type", 403, "AccessDenied"), "may not do s3:ListBucket"),
    Fault("store", "wrong secret key", _rule("GET", "", 403, "SignatureDoesNotMatch"), "the signature does not match"),
    Fault("store", "session token expired", _rule("PUT", "partNumber=3", 400, "ExpiredToken"), "the session token has expired"),
    Fault("store", "a web page for a list", _act("GET", "list-type", "page"), _NOT_KEPT + "nothing"),
    Fault("store", "a web page for a part", _act("PUT", _DUMP_PART, "page"), "part 2: |a part is gone"),
    Fault("store", "part acknowledged, not kept", _act("PUT", _DUMP_PART, "ok"), "a part is gone"),
    Fault("store", "part half kept", _act("PUT", _DUMP_PART, "half"), _NOT_KEPT + r"\d+ bytes"),
    Fault("store", "configuration acknowledged, not kept", _act("PUT", _CONFIGURATION, "ok"), _NOT_KEPT),
    Fault("store", "manifest acknowledged, not kept", _act("PUT", _MANIFEST, "ok"), _NOT_KEPT + "nothing"),
    Fault("store", "old ones cannot be deleted", _rule("DELETE", "", 403, "AccessDenied"), "was not taken away: .*s3:DeleteObject", BORNE),
    Fault("store", "a bit changed on the way in", _act("PUT", _DUMP_PART, "flip"), "it is not what was uploaded", FAILED),
]  # fmt: skip

DOWNLOAD = [
    Fault("download", "dump: 403", _rule("GET", damage.DUMP, 403, "AccessDenied"), "may not do s3:GetObject", UNKNOWN),
    Fault("download", "dump: 503 for ever", _rule("GET", damage.DUMP, 503, "SlowDown"), "overloaded", UNKNOWN),
    Fault("download", "dump: answer cut", _act("GET", damage.DUMP, "cut"), r"it ended after \d+ of|connection broke", UNKNOWN),
    Fault("download", "dump: half, as if it were all", _act("GET", damage.DUMP, "short"), "it is not what was uploaded", FAILED),
    Fault("download", "manifest: a web page", _act("GET", _MANIFEST, "page"), "manifest.json: it is no JSON object", UNKNOWN),
    Fault("download", "configuration: 500", _rule("GET", _CONFIGURATION, 500, "InternalError"), "the store fails", UNKNOWN),
    Fault("download", "verified.json: 403", _rule("PUT", "verified", 403, "AccessDenied"), "may not do s3:PutObject", UNKNOWN),
]  # fmt: skip

# --- objects in the store

_GONE = "its manifest names .*, which the store does not have"
_UPLOADED = r"it is not what was uploaded \(SHA-256"
OBJECTS = [
    Fault("objects", "dump cut to half", damage.changed(lambda data: data[: len(data) // 2]), _UPLOADED, FAILED),
    Fault("objects", "dump without its last byte", damage.changed(lambda data: data[:-1]), _UPLOADED, FAILED),
    Fault("objects", "dump with a byte more", damage.changed(lambda data: data + b"\0"), _UPLOADED, FAILED),
    Fault("objects", "dump empty", damage.changed(lambda data: b""), _UPLOADED, FAILED),
    Fault("objects", "dump gone", damage.changed(lambda data: None), _GONE, FAILED),
    *(Fault("objects", f"bit of the dump flipped at {at:.0%}", damage.changed(damage.flip(at)), _UPLOADED, FAILED) for at in (0, 0.5, 1)),
    Fault("objects", "dump of the older backup", damage.from_old(damage.DUMP), _UPLOADED, FAILED),
    Fault("objects", "dump and configuration swapped", damage.swapped, _UPLOADED, FAILED),
    Fault("objects", "bit of the configuration flipped", damage.changed(damage.flip(0.5), damage.CONFIGURATION),
          "configuration.tar.gz: it is not what was uploaded", FAILED),
    Fault("objects", "configuration gone", damage.changed(lambda data: None, damage.CONFIGURATION),
          _GONE, FAILED),
    Fault("objects", "manifest gone", damage.changed(lambda data: None, damage.MANIFEST), "there is no complete backup", UNKNOWN),
    Fault("objects", "manifest of the older backup", damage.from_old(damage.MANIFEST), "it is of backup .* and not of this one", UNKNOWN),
    Fault("objects", "manifest cut", damage.changed(lambda data: data[:-20], damage.MANIFEST), "it is no JSON object", UNKNOWN),
    Fault("objects", "manifest without tables", damage.said(lambda text: text.pop("tables")), "it lacks tables", UNKNOWN),
    Fault("objects", "manifest names no dump", damage.said(lambda text: text["objects"].pop(damage.DUMP)), "names no dump", FAILED),
    Fault("objects", "manifest with another row count", damage.said(lambda text: text["tables"]["public.teams"].update(rows=7)),
          "public.teams has 1 rows, the manifest says 7", FAILED),
    Fault("objects", "older backup uploaded again", damage.renamed(), "it is of backup .* and not of this one", UNKNOWN),
    Fault("objects", "older backup under a new id", damage.renamed(id=""), "hours old: more than 36", UNKNOWN),
    Fault("age", "wrong identity", "wrong", "no key of this host opens it", UNKNOWN),
    Fault("age", "no identity", "none", "is encrypted, and this host has no age identity", UNKNOWN),
    Fault("age", "bit flipped", damage.changed(damage.flip(0.5), f"{damage.DUMP}.age", aged=True), _UPLOADED, FAILED),
    Fault("age", "bit of the header flipped", damage.changed(damage.flip(0.00001), f"{damage.DUMP}.age", aged=True), _UPLOADED, FAILED),
    Fault("age", "cut", damage.changed(lambda data: data[:-70000], f"{damage.DUMP}.age", aged=True), _UPLOADED, FAILED),
]  # fmt: skip

# --- the database that the dump brings back, when all hashes are right

ROWS = [
    Fault("rows", "audit_logs empty", "DELETE FROM audit_logs", r"public.audit_logs has 0 rows, the manifest says 30\d\d", FAILED),
    Fault("rows", "a table missing", "DROP TABLE guardrails CASCADE", "public.guardrails is missing", FAILED),
    Fault("rows", "rows missing, others instead", "DELETE FROM audit_logs WHERE actor_id IN ('u7', 'u8'); INSERT INTO audit_logs(actor_id, "
          "action, resource_type, timestamp) SELECT 'u9', 'a', 'r', now() - interval '9 hours' FROM generate_series(1, 2)",
          "public.audit_logs has other contents than the manifest says, in the same number of rows", FAILED),
    Fault("rows", "one value changed", "UPDATE noise SET data = set_byte(data, 99, (get_byte(data, 99) + 1) % 256) WHERE id = 5",
          "public.noise has other contents", FAILED),
    Fault("rows", "an index and a view missing", "DROP VIEW seen; DROP INDEX noise_by_data",
          "index public.noise_by_data is missing.*view public.seen is missing|view public.seen is missing.*index", FAILED),
    Fault("rows", "a sequence set back", "SELECT setval('noise_id_seq', 3)", "sequence public.noise_id_seq stands at 3", FAILED),
    Fault("rows", "another schema revision", "UPDATE alembic_version SET version_num = '003'", "alembic_version has other", FAILED),
]  # fmt: skip

# --- the process: killed when the store gets a certain request; what a killed run leaves counts for nothing, and the next one goes on


def _killed(name: str, job: str, how: Any, number: int = signal.SIGKILL) -> Fault:
    return Fault("killed", f"{job}, {name}", (job, how, number), "", BORNE)


KILLED = [
    _killed("before anything was sent", "backup", Rule("GET", "list-type", "hold")),
    _killed("in the middle of the dump", "backup", Rule("PUT", "partNumber=3", "hold")),
    _killed("in the middle of the dump, by SIGTERM", "backup", Rule("PUT", "partNumber=3", "hold"), signal.SIGTERM),
    _killed("before the upload is completed", "backup", Rule("POST", "uploadId", "hold")),
    _killed("after the dump", "backup", Rule("PUT", _CONFIGURATION, "hold")),
    _killed("before the manifest", "backup", Rule("PUT", _MANIFEST, "hold")),
    _killed("after the manifest", "backup", Rule("PUT", _MANIFEST, "held")),
    _killed("while old ones are taken away", "backup", Rule("DELETE", damage.DUMP, "hold")),
    _killed("while it pulls", "verify-restore", Rule("GET", _CONFIGURATION, "hold")),
    _killed("with its throwaway up", "verify-restore", "throwaway"),
    _killed("before it is recorded", "verify-restore", Rule("PUT", "verified", "hold")),
]  # fmt: skip

# --- functions of test_process.py, test_disk.py and test_time.py
TOGETHER = [
    Fault("together", "two backups at once", "two", "another backup is running on this host"),
    Fault("together", "a backup that hangs for days", "hangs", "another backup is running on this host"),
    Fault("together", "two verifications at once", "verifications", "another verification is running on this host", UNKNOWN),
    Fault("together", "two in one second", "second", "database.dump exists already; a backup is never replaced"),
    Fault("together", "another server in the same place", "server", "holds backups of another server"),
    Fault("together", "an upgrade in the middle", "upgrade", "the installation was changed while its backup was taken"),
    Fault("together", "a record cut short by a crash", "record", "", BORNE),
]  # fmt: skip
DISK = [
    Fault("disk", "spool too small", "small", "MiB free, and the restore needs", UNKNOWN),
    Fault("disk", "spool full midway", "spool", "No space left on device", UNKNOWN),
    Fault("disk", "throwaway's disk full", "throwaway", "No space left on device", FAILED),
    Fault("disk", "the host's own records full", "private", "No space left on device"),
    Fault("disk", "metrics' disk full", "metrics", "the status or the metrics: .*No space left on device", BORNE),
    Fault("disk", "directory of the store full", "directory", r"it is full \(ENOSPC\)"),
]  # fmt: skip
TIME = [
    Fault("time", "clock too different for the store", _rule("PUT", "partNumber", 403, "RequestTimeTooSkewed"), "clock differs too much"),
    Fault("time", "clock two days ahead, then right", "ahead", "", BORNE),
    Fault("time", "clock put right during a backup", "right", "its manifest says that it was taken at", UNKNOWN),
    Fault("time", "clock ahead at the verification", 3 * 86400.0, r"\d+\.\d hours old: more than 36", UNKNOWN),
    Fault("time", "clock back at the verification", -2 * 86400.0, "there is no complete backup", UNKNOWN),
    Fault("time", "03:17 skipped (Europe/Helsinki)", "skipped", "", BORNE),
    Fault("time", "03:17 doubled (Europe/Helsinki)", "doubled", "", BORNE),
]  # fmt: skip

FAULTS = [*PRODUCER, *STORE, *DOWNLOAD, *OBJECTS, *ROWS, *KILLED, *TOGETHER, *DISK, *TIME]
