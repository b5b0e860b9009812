"""Training on Lightning Fabric."""
