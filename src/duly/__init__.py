"""Background jobs out of the application's own database."""
