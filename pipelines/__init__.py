"""Turn shards into batches of augmented patches on the device."""
