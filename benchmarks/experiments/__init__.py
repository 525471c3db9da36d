"""The experiments of AWS's article, one file each, and what they share."""
