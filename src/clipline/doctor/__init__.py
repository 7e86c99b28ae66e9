"""What is wrong with this machine's installation, and how fast it embeds: `clipline doctor`."""
