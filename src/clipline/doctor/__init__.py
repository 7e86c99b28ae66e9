"""`clipline doctor`: checks the installation and a model, and measures how fast it embeds."""
