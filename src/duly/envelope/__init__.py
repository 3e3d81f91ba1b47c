"""Arguments to sealed bytes and back: types, limits, keys, seals. No SQL; nothing here knows a database."""
