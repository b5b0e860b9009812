"""Components by slot; each file registers one and also works alone."""
