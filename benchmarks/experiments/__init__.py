"""The article's experiments, scale and quality: what is measured, what is projected, from which assumptions."""
