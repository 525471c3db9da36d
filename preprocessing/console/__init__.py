"""How every command talks with its user: flags, places (folders and s3://), progress, pages, errors and exit codes."""
