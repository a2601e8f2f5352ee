"""Choice of settings on the validation part: ``strong-envs tune``, and ``--tuned`` of the other commands."""
