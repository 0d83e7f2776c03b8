//! What functions there are: versions, aliases, layers and their settings, on disk.
