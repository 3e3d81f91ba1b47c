"""Pure values: what a job is, the states it goes through, how attempts end. Nothing here does I/O."""
