"""The form of results: record, tables, pictures, files, and what a figure depends on."""
