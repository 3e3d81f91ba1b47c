"""Events to logs, and later to metrics and alerts. It listens; it imports only the model."""
