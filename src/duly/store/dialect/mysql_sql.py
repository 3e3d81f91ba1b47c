"""The statements of MySQL's dialect, with {words} for tables, columns and indexes."""

from __future__ import annotations

# In UTC whatever the session's zone is, which NOW(6) is not; the same for the whole of a statement.
CLOCK = "UTC_TIMESTAMP(6)"

# Outcomes go in as one JSON text: their ids are joined one by one through the primary key. A list of ids (`IN`)
# may be answered by reading the whole of a small table, and what a locking statement reads it waits for.
DONE = """JSON_TABLE(:done, '$[*]' COLUMNS (
    id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin PATH '$[0]',
    claim INTEGER PATH '$[1]',
    started_at DATETIME(6) PATH '$[2]'
)) AS done STRAIGHT_JOIN {jobs} AS j FORCE INDEX (PRIMARY)
ON j.id = done.id AND j.claim = done.claim AND j.worker = :worker"""

# The rows are locked as they are read, so that the same are removed. Not INSERT IGNORE: it would also pass over
# values that do not fit.
RECORD = """
INSERT INTO {executions} (job_id, outcome, attempts, started_at, ended_at, {ended})
SELECT j.id, 'succeeded', j.attempt + 1, done.started_at, {clock}, {ended_j} FROM {done}
FOR UPDATE
ON DUPLICATE KEY UPDATE job_id = {executions}.job_id"""

REMOVE = "DELETE j FROM {done}"

RESULT = "UPDATE {executions} SET result = :result WHERE job_id = :id"

ENDED = "SELECT job_id, claim, outcome FROM {executions} WHERE job_id IN :ids"

# Only rows that are due and have not expired, by the database's clock; promotion and expiry move the others.
# Behind a position: in this form the three ranges of the index are read, where the comparison of rows,
# (priority, run_at, id) > (…), would read all that stands before it. HEAD stands before everything.
FREE = """
state = 'available' AND queue = :queue{n} AND run_at <= {clock} AND expires_at > {clock}
AND (priority > :priority{n} OR (priority = :priority{n} AND run_at > :run_at{n})
     OR (priority = :priority{n} AND run_at = :run_at{n} AND id > :id{n}))
ORDER BY priority, run_at, id"""
HEAD = (-32_768, "1000-01-01 00:00:00", "")

# The index is named: in tables that fill and empty within seconds the planner's figures are always wrong.
PICK = """
SELECT {claimed} FROM {jobs} FORCE INDEX ({by_claim}) WHERE {free}
LIMIT :limit FOR UPDATE SKIP LOCKED"""

# Several queues: the best of each, and of these the best, read without locks. They say how many fall to each
# queue, and so many are then locked there; to lock them all would leave nothing to a second worker.
BEST_OF = """
(SELECT queue, priority, run_at, id FROM {jobs} FORCE INDEX ({by_claim}) WHERE {free} LIMIT :limit)"""
HEADS = "SELECT priority, run_at, id, queue FROM ({best}) AS heads ORDER BY priority, run_at, id LIMIT :limit"

CLAIM = """
UPDATE {jobs} FORCE INDEX (PRIMARY) SET state = 'running', claim = claim + 1, worker = :worker, started_at = NULL
WHERE id IN :ids"""

SEE = """
SELECT (SELECT beat_at FROM {workers} WHERE id = :worker) AS now,
    (SELECT MIN(run_at) FROM {jobs} WHERE state = 'scheduled') AS run,
    (SELECT expires_at FROM {jobs} FORCE INDEX ({by_expiry}) WHERE state IN ('available', 'scheduled')
     ORDER BY expires_at LIMIT 1) AS expiry,
    EXISTS (SELECT 1 FROM {jobs} WHERE state = 'available') AS free,
    EXISTS (SELECT 1 FROM {workers} WHERE id <> :worker AND {silent})
    OR EXISTS (SELECT 1 FROM {jobs} AS j WHERE state = 'running'
               AND NOT EXISTS (SELECT 1 FROM {workers} AS w WHERE w.id = j.worker)) AS dead,
    EXISTS (SELECT 1 FROM {jobs} WHERE state = 'suspect') AS suspects"""

# The clock stands still while a statement runs: a beat that lands meanwhile is in its future. A jump of a second
# and more is none of those.
SILENT = """(beat_at < {clock} - INTERVAL :lease MICROSECOND OR beat_at > {clock} + INTERVAL 1 SECOND)"""

DEAD = """
SELECT id FROM {workers} WHERE id <> :judge AND {silent}
AND NOT EXISTS (SELECT 1 FROM {workers} AS own
                WHERE own.id = :judge AND own.beat_at < {clock} - INTERVAL :half MICROSECOND)
FOR UPDATE SKIP LOCKED"""

# With the constant state among what is distinct, each queue is one probe ("Using index for group-by").
WAITING_QUEUES = """
SELECT queue FROM (
    SELECT DISTINCT state, queue FROM {jobs} FORCE INDEX ({by_claim}) WHERE state = 'available'
) AS waiting"""

# As DONE. A DELETE obeys no FORCE INDEX: with `IN` it may read all of a small table, and wait for each locked row.
REMOVE_ROWS = """
DELETE gone FROM JSON_TABLE(:ids, '$[*]' COLUMNS (id {type} PATH '$')) AS ids
STRAIGHT_JOIN {table} AS gone FORCE INDEX (PRIMARY) ON gone.{key} = ids.id"""

REMOVE_OWNED = """
DELETE gone FROM JSON_TABLE(:rows, '$[*]' COLUMNS (id {type} PATH '$[0]', owner {owner_type} PATH '$[1]')) AS ids
STRAIGHT_JOIN {table} AS gone FORCE INDEX (PRIMARY) ON gone.{key} = ids.id AND gone.{owner} = ids.owner"""
