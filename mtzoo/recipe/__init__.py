"""YAML recipes: schema, names, policy, build."""
