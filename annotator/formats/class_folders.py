"""A zip with one folder for each class, written while it is sent: only one image is in memory at a time.

Folder and file names are made safe for every operating system; what would then collide is told apart. ``labels.csv``
at the end holds the true names and everything else that is known, with the path in the zip as its last column.
"""

# Folders that are no classes, here and when such a zip is imported again.
NONE_OF_THESE, UNLABELLED = "_none_of_these", "_unlabelled"
NOT_A_CLASS = (NONE_OF_THESE, UNLABELLED)
