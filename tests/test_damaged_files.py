"""Files of strangers that are given as data: bombs, claims, links to other files, damage; pipes; programs for images."""
