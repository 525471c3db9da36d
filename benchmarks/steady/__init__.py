"""What a loader must keep up for ever: its rate in a large store, its memory over many batches, the rate of a copy."""
