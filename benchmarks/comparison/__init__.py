"""What loader_compare is made of: rows, the process that measures one, checks, record and page."""
