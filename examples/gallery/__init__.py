"""The gallery: tasks that do their work twice when they are unlucky, each with its mended twin.

``docs/tutorial-idempotency.md`` shows it, room by room. In a folder of your own:

    python -c "from gallery.shop import opening; opening()"
    duly prove --app gallery.shop:jobs gallery.flag:wrong --args '{"order_id": 1}'
"""
