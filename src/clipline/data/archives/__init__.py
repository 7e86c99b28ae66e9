"""Archives from elsewhere (zip, tar) and folders: which members are safe, their bytes, and copying them to disk."""
