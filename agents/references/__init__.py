"""Reference predictors that ignore the video, and the random policy."""
