"""Commands of ``strong-envs`` on data: ``check``, ``extract``, ``import``, ``show``, ``sizes``."""
