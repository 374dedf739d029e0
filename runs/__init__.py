"""The folder of a run: its files, and the images, videos and pages that are made from them."""
