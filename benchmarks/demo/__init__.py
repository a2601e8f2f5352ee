"""A local page on which a video and a sentence are searched, step by step."""
