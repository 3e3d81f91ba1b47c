"""The schema's revisions, in the order they came."""
