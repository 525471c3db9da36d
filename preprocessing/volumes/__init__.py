"""One volume: read from NIfTI, turned, resampled, cropped, summarised, and brought back to its file's grid."""
