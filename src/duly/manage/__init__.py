"""What people do to jobs: look, retry, cancel, clear, check."""
