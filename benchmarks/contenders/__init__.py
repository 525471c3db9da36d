"""Who is compared: each loader and converter as one row of a table, with what it was tuned with."""
