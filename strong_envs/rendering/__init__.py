"""Pictures of episodes, and mp4 files of them."""
