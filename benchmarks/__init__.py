"""How fast is Duly, beside the bare statements on the same database? ``python -m benchmarks`` answers.

Each figure of Duly's stands beside one of the *bare* statement that does the same on the same tables,
through the same driver, in the same round; only the ratio travels from one machine to another.
"""
