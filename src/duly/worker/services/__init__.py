"""What a worker does beside running jobs: it shows that it lives, looks after the dead, promotes and expires."""
