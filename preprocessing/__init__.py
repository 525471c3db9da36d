"""NIfTI volumes in, a store of shards out.

Commands: ``phantom``, ``to_shards``, ``merge``, ``check``, ``stage``. In Python:
``from preprocessing.shards import open_store``.
"""

from preprocessing.console.interrupt import end_quietly

end_quietly(__name__)
