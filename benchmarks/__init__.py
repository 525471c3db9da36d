"""What is fast, and how we know.

Commands: ``loader_compare``, ``convert_compare``, ``article``, ``scale``, ``gpu_check``.
"""
