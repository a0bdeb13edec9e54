"""A local page: drop a video, watch it being judged."""
