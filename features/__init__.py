"""Features of videos and sentences: readers, extraction, stores on disk, banks on a device, and the default world."""
