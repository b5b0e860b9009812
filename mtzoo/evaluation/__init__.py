"""Measuring models: metrics with every setting said, and protocols that name them."""
