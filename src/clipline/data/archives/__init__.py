"""Reading archives that come from elsewhere: their members, one by one, and safely to disk."""
