"""What can be known of tasks: the audit reads what they state and how they are written; the prover tries it."""
