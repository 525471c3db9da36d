"""``--augment full``: drawn, placed, and applied twice, in numpy (the meaning) and in DALI (the speed)."""
