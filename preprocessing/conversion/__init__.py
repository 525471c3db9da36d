"""Cases into shards: jobs, processes, restart, shares of an array job, the closing manifest."""
