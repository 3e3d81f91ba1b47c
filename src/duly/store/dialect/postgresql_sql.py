"""The statements of PostgreSQL's dialect, with {words} for tables and columns."""

from __future__ import annotations

# The clock stands as a scalar sub-select everywhere: bare, clock_timestamp() is volatile, so it is
# asked again for each row and cannot bound an index scan (110 ms against 0.24 ms with a million
# scheduled rows).
CLOCK = "(SELECT clock_timestamp())"

RECORD = """
done AS (
    SELECT id, claim, started_at, result
    FROM unnest(CAST(:ids AS uuid[]), CAST(:claims AS integer[]),
                CAST(:started AS timestamptz[]), CAST(:results AS bytea[])) AS d(id, claim, started_at, result)
), gone AS (
    DELETE FROM {jobs} AS j USING done
    WHERE j.id = ANY(CAST(:ids AS uuid[])) AND j.id = done.id AND j.claim = done.claim AND j.worker = :worker
    RETURNING j.*, done.started_at AS began_at, done.result
), recorded AS (
    INSERT INTO {executions} (job_id, outcome, attempts, started_at, ended_at, result, {ended})
    SELECT id, 'succeeded', attempt + 1, began_at, {clock}, result, {ended} FROM gone
    ON CONFLICT (job_id) DO NOTHING
)"""

# Only rows that are due and have not expired, by the database's clock; promotion and expiry move the others.
FREE = f"state = 'available' AND run_at <= {CLOCK} AND expires_at > {CLOCK}"
BEST = "ORDER BY priority, run_at, id"

# Dead entries gather at the head of the index, in front of the live ones: every claim from the head reads them
# all (with an old snapshot held no vacuum can take them away). A claim from a cursor begins behind them.
HEAD = (-32_768, "-infinity", "00000000-0000-0000-0000-000000000000")

# One queue: the index gives the order, the lock skips what others hold.
PICK_ONE = """
picked AS (
    SELECT id FROM {jobs}
    WHERE queue = :queue AND {free}
    AND (priority, run_at, id) > (CAST(:priority AS smallint), CAST(:run_at AS timestamptz), CAST(:id AS uuid))
    {best} LIMIT :limit FOR UPDATE SKIP LOCKED
)"""

# Several queues. `queue = ANY(…)` loses the index order, and locking sub-selects per queue would lock
# far more than is taken, so that a second worker sees nothing. So: read the merged heads without locks,
# count how many of them fall to each queue, then lock that many per queue.
PICK_SEVERAL = """
line AS (
    SELECT * FROM unnest(CAST(:queues AS text[]), CAST(:priorities AS smallint[]), CAST(:run_ats AS timestamptz[]),
                         CAST(:positions AS uuid[])) AS line(queue, priority, run_at, id)
), heads AS MATERIALIZED (
    SELECT line.queue FROM line CROSS JOIN LATERAL (
        SELECT priority, run_at, id FROM {jobs}
        WHERE queue = line.queue AND {free} AND (priority, run_at, id) > (line.priority, line.run_at, line.id)
        {best} LIMIT :limit
    ) AS head ORDER BY head.priority, head.run_at, head.id LIMIT :limit
), quota AS (
    SELECT queue, count(*) AS share FROM heads GROUP BY queue
), picked AS (
    SELECT mine.id FROM line JOIN quota USING (queue) CROSS JOIN LATERAL (
        SELECT id FROM {jobs}
        WHERE queue = line.queue AND {free} AND (priority, run_at, id) > (line.priority, line.run_at, line.id)
        {best} LIMIT quota.share FOR UPDATE SKIP LOCKED
    ) AS mine
)"""

# When others hold all those heads, their quotas are spent on locked rows though other queues have free ones. So
# an empty answer is followed by a look behind: queue by queue, in no order among them, until there are enough.
PICK_BEHIND = """
picked AS (
    SELECT mine.id FROM unnest(CAST(:queues AS text[])) AS q(queue) CROSS JOIN LATERAL (
        SELECT id FROM {jobs} WHERE queue = q.queue AND {free} {best} LIMIT :limit FOR UPDATE SKIP LOCKED
    ) AS mine LIMIT :limit
)"""

# `id = ANY(ARRAY(…))` keeps an index scan where a join turns into a sequential one (161,000 against
# 104,000 a second). A worker whose own row is gone is given nothing.
CLAIM = """
claimed AS (
    UPDATE {jobs} SET state = 'running', claim = claim + 1, worker = :worker, started_at = NULL
    WHERE id = ANY(ARRAY(SELECT id FROM picked)) AND (SELECT alive FROM self)
    RETURNING {claimed}
)
SELECT {accepted} AS accepted, (SELECT alive FROM self) AS alive, {claimed_c},
       claimed.id = ANY(ARRAY(SELECT job_id FROM {executions}
                              WHERE job_id = ANY(ARRAY(SELECT id FROM claimed)))) AS replayed
FROM (SELECT 1) AS always LEFT JOIN claimed ON true"""

ACCEPTED = "(SELECT count(*) FROM gone)"

SELF = "self AS (SELECT EXISTS (SELECT 1 FROM {workers} WHERE id = :worker) AS alive)"

# A beat, and all there is to see to, in one statement; it also rings the worker's own bell, to hear whether it rings.
PULSE = """
WITH beat AS (
    UPDATE {workers} SET beat_at = {clock} WHERE id = :worker RETURNING beat_at
)
SELECT (SELECT beat_at FROM beat) AS now,
    (SELECT min(run_at) FROM {jobs} WHERE state = 'scheduled') AS run,
    (SELECT min(expires_at) FROM {jobs} WHERE state IN ('available', 'scheduled')) AS expiry,
    EXISTS (SELECT 1 FROM {jobs} WHERE state = 'available') AS free,
    EXISTS (SELECT 1 FROM {workers} WHERE id <> :worker AND (beat_at < {clock} - CAST(:lease AS interval)
                                                             OR beat_at > {clock} + interval '1 second'))
    OR EXISTS (SELECT 1 FROM {jobs} AS j WHERE state = 'running'
               AND NOT EXISTS (SELECT 1 FROM {workers} AS w WHERE w.id = j.worker)) AS dead,
    EXISTS (SELECT 1 FROM {jobs} WHERE state = 'suspect') AS suspects,
    (SELECT json_agg(json_build_array(id, claim, cancelling)) FROM {jobs}
     WHERE state = 'running' AND worker = :worker) AS held,
    pg_notify(:channel, :worker)"""

WAKE = "SELECT pg_notify(:channel, '') FROM {workers} WHERE asleep LIMIT 1"

# One round trip for one job: the insert, and the bell where somebody sleeps.
INSERT = """
WITH inserted AS (INSERT INTO {jobs} ({copied}) VALUES ({values})) SELECT pg_notify(:channel, '')
FROM {workers} WHERE asleep LIMIT 1"""

WAITING_QUEUES = """
WITH RECURSIVE seen AS (
    (SELECT queue FROM {jobs} WHERE state = 'available' ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT queue FROM {jobs} WHERE state = 'available' AND queue > seen.queue ORDER BY queue LIMIT 1)
    FROM seen WHERE seen.queue IS NOT NULL
) SELECT queue FROM seen WHERE queue IS NOT NULL"""

# Statistics of tables that fill and empty within seconds are always wrong, and the planner, left to them, reads
# all available jobs and sorts them, or compares each outcome with each row (100-150 ms an exchange over 10,000
# jobs, where 12 will do); a plan made while the ledger was small is kept and grows slower with every job. So:
# indexes, in their order, and hash joins, always; and no compiler called because these words make plans look dear.
LIMITS = (
    "SET LOCAL lock_timeout = {lock:d}; SET LOCAL statement_timeout = {statement:d}; "
    "SET LOCAL idle_in_transaction_session_timeout = {idle:d}; SET LOCAL enable_seqscan = off; "
    "SET LOCAL enable_sort = off; SET LOCAL enable_nestloop = off; SET LOCAL jit = off"
)
BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"


def limits(**seconds: float) -> str:
    """``LIMITS``, filled in: SET takes no parameters, and these are whole milliseconds."""
    return LIMITS.format(**{name: int(limit * 1000) for name, limit in seconds.items()})
