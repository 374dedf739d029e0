"""What every room may use: errors, files, images, the terminal. Imports nothing of the project."""
