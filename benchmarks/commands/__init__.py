"""The commands of ``strong-envs`` that train, and those that show results."""
