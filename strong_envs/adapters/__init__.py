"""The environments for other libraries: Stable-Baselines3 and PettingZoo."""
