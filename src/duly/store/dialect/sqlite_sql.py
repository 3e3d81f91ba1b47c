"""The statements of SQLite's dialect, with {words} for tables and columns."""

from __future__ import annotations

# SQLite's clock has milliseconds; the stored form has six digits, so that text compares as time does.
CLOCK = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"

# sqlite3 lets go of the interpreter for each row that it fetches, and while jobs run it may wait for milliseconds to
# get it back. So no hot statement brings rows: they count what they changed, and many rows come as one text.
RECORD = """
INSERT INTO {executions} (job_id, outcome, attempts, started_at, ended_at, {ended})
SELECT j.id, 'succeeded', j.attempt + 1, json_extract(done.value, '$[2]'), {clock}, {ended_j}
FROM json_each(:done) AS done JOIN {jobs} AS j ON j.id = json_extract(done.value, '$[0]')
WHERE j.worker = :worker AND j.claim = json_extract(done.value, '$[1]')
ON CONFLICT (job_id) DO NOTHING"""

REMOVE = """
DELETE FROM {jobs} WHERE worker = :worker AND (id, claim) IN (
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:done)
)"""

ENDED = "SELECT job_id, claim, outcome FROM {executions} WHERE job_id IN (SELECT value FROM json_each(:ids))"

BEST_OF = """
SELECT id, priority, run_at FROM {jobs}
WHERE state = 'available' AND queue = :queue{n} AND run_at <= {clock} AND expires_at > {clock}
ORDER BY priority, run_at, id LIMIT :limit"""

# SQLite merges 500 selections at the most. Beyond MOST_MERGED queues it reads and sorts all that is available.
MOST_MERGED = 100
BEST_OF_MANY = """
SELECT id, priority, run_at FROM {jobs}
WHERE state = 'available' AND queue IN (SELECT value FROM json_each(:queues))
AND run_at <= {clock} AND expires_at > {clock}"""

PICK = """
SELECT json_group_array(json_array({claimed}, hex(envelope))) FROM {jobs}
WHERE id IN (SELECT id FROM ({heads}) ORDER BY priority, run_at, id LIMIT :limit)"""

HOLD = """
UPDATE {jobs} SET state = 'running', claim = claim + 1, worker = :worker, started_at = NULL
WHERE id IN (SELECT value FROM json_each(:ids))"""

PULSE = """
SELECT (SELECT 1 FROM {workers} WHERE id = :worker) AS alive, {clock} AS now,
    (SELECT min(run_at) FROM {jobs} WHERE state = 'scheduled') AS run,
    (SELECT min(expires_at) FROM {jobs} WHERE state IN ('available', 'scheduled')) AS expiry,
    EXISTS (SELECT 1 FROM {jobs} WHERE state = 'available') AS free,
    EXISTS (SELECT 1 FROM {jobs} AS j WHERE state = 'running'
            AND NOT EXISTS (SELECT 1 FROM {workers} AS w WHERE w.id = j.worker)) AS dead,
    EXISTS (SELECT 1 FROM {jobs} WHERE state = 'suspect') AS suspects,
    (SELECT json_group_array(id) FROM {workers}) AS workers,
    (SELECT json_group_array(json_array(id, claim, cancelling)) FROM {jobs}
     WHERE state = 'running' AND worker = :worker) AS held"""

WAITING_QUEUES = """
WITH RECURSIVE seen (queue) AS (
    SELECT * FROM (SELECT queue FROM {jobs} WHERE state = 'available' ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT queue FROM {jobs} WHERE state = 'available' AND queue > seen.queue ORDER BY queue LIMIT 1)
    FROM seen WHERE seen.queue IS NOT NULL
) SELECT queue FROM seen WHERE queue IS NOT NULL"""
