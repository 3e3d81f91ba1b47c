"""The app of the other fault tests, with isolated tasks."""

from __future__ import annotations

from tests.faults.app import jobs
from tests.faults.cells import apart

jobs.include(apart)
