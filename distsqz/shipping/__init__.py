"""Files from one host to many over plain TCP: sender, receiver, updates of files that are there already."""
