"""Workers: claim jobs, run them, hand in how they ended."""
