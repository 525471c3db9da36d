"""A run from its first step to its last: built, stepped, validated, stopped, saved, resumed."""
