"""Turn folders of NIfTI volumes into a store of shards."""
