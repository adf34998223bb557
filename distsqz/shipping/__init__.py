"""Files from one host to many over plain TCP: sender, receiver, the update of a file that is there already."""
