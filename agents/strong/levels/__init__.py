"""The algorithms of a level: value-based (`dqn`), actor-critic (`ddpg`), and actor-critic with full feedback."""
