"""One form for every result: record, table, picture, page, index."""
